"""Bundles: all that serving and monitoring need of one version, as files that never change.

    bundles/<model>/<digest>/{manifest,spec,schema,plan,reference,golden,card}.json
                             network.onnx  network.keras or trees.ubj

The manifest lists the SHA-256 of each file, and its own SHA-256 is the bundle's name, so a bundle
cannot change under its name without `load` seeing it. The manifest is written last: where there
is one, there is a whole bundle. Nothing in a bundle is code, and loading it runs none.
"""

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import CorruptBundle, GateRefused, NotFound
from hapredict.features.plan import FeaturePlan
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.spec import Spec, build_spec

_FORMAT = 2
_FORMATS = {1: frozenset({"network.keras"}), 2: frozenset({"network.keras", "trees.ubj"})}
"""The names that the file of the trainable model has in each format that can be read."""
_MANIFEST = "manifest.json"
_ARTEFACT = "network.onnx"
_PARTS = ("card.json", "golden.json", "plan.json", "reference.json", "schema.json", "spec.json")


@dataclass(frozen=True, slots=True)
class Reference:
    """What the version saw and how well it did on rows that it did not learn from.

    The monitor compares live traffic with it. Raises ValueError where edges do not grow or counts
    do not fit them.
    """

    bins: tuple[int, ...]
    """Rows in each bin of each feature, flat, in the order of `FeaturePlan.bin_totals`."""
    score_edges: tuple[float, ...]
    """Where one bin of scores ends and the next begins; they grow."""
    score_counts: tuple[int, ...]
    """Rows in each of the `len(score_edges) + 1` bins of scores."""
    loss_mean: float
    """Mean loss in [0, 1] (`training.metrics.losses`)."""
    loss_rows: int
    """Rows behind `loss_mean`."""
    loss_scale: float
    """Scale of the loss of a regression; 1 for other tasks."""
    rows: int
    """Rows behind `bins`."""
    hourly: str = ""
    """`bins` by hour of day or of week in UTC, [24 or 168, bins] as `pack_counts` packs it; "" if
    the rows have no time, or too little of it."""
    usual: tuple[float, ...] = ()
    """For each feature the total variation that is usual between a stretch of the reference's time
    and the reference (`monitoring.seasons.usual_gaps`)."""
    score_hourly: str = ""
    """`score_counts` by the hour, as `hourly`."""
    score_usual: tuple[float, ...] = ()
    """As `usual`, of the scores."""

    def __post_init__(self) -> None:
        for name in ("bins", "score_counts"):
            object.__setattr__(self, name, tuple(int(count) for count in getattr(self, name)))
        for name in ("score_edges", "usual", "score_usual"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        edges = self.score_edges
        for name in ("loss_rows", "rows"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ("loss_mean", "loss_scale"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if any(low >= high for low, high in pairwise(edges)):
            message = f"score_edges must grow; got {list(edges)}"
            raise ValueError(message)
        if len(self.score_counts) != len(self.score_edges) + 1:
            message = (
                f"{len(self.score_edges)} score_edges make {len(self.score_edges) + 1} bins; "
                f"got {len(self.score_counts)} score_counts"
            )
            raise ValueError(message)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Reference":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows and the scores that this version gives them: a replica's check before it serves.

    A NaN among the rows becomes None, which is how a live row says "missing".
    """

    rows: Mapping[str, Sequence[Any]]
    """Columns of equal length, as `Schema.table` takes them."""
    scores: Sequence[Sequence[float]]
    """[rows, outputs]"""

    def __post_init__(self) -> None:
        rows = {name: [_plain(value) for value in column] for name, column in self.rows.items()}
        scores = [[float(score) for score in row] for row in self.scores]
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "scores", scores)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"rows": dict(self.rows), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Golden":
        """What `to_json` wrote. Raises KeyError or TypeError for anything else."""
        return cls(rows=raw["rows"], scores=raw["scores"])


@dataclass(frozen=True, slots=True)
class Bundle:
    """One version, whole."""

    digest: str
    """SHA-256 of the manifest, in hex: the bundle's name."""
    spec: Spec
    schema: Schema
    plan: FeaturePlan
    reference: Reference
    network_onnx: bytes
    """What replicas run."""
    source: bytes
    """What training can go on from: a Keras network, or XGBoost's trees."""
    source_name: str
    """`network.keras` or `trees.ubj`."""
    golden: Golden
    metrics: Mapping[str, Any]
    card: Mapping[str, Any]
    """Where it comes from: run, rows, range of data, versions of libraries."""


def publish(
    store: Store,
    model: str,
    *,
    spec: Spec,
    schema: Schema,
    plan: FeaturePlan,
    reference: Reference,
    network_onnx: bytes,
    source: bytes,
    source_name: str,
    golden: Golden,
    metrics: Mapping[str, Any],
    card: Mapping[str, Any],
) -> str:
    """Store a bundle and return its digest. The same parts give the same digest, at any time.

    Publishing again is no error and restores files that were damaged. Metrics and card may hold
    numbers that are not finite, which are stored as null. Raises GateRefused if another part
    holds one, or if no bundle can hold a file called `source_name`; and StoreUnavailable.
    """
    if source_name not in _FORMATS[_FORMAT]:
        message = (
            f"model {model!r}: its source is called {source_name!r}; a bundle holds one of "
            f"{sorted(_FORMATS[_FORMAT])}"
        )
        raise GateRefused(message)
    parts: dict[str, Any] = {
        "card.json": {"card": _plain(card), "metrics": _plain(metrics)},
        "golden.json": golden.to_json(),
        "plan.json": plan.to_json(),
        "reference.json": reference.to_json(),
        "schema.json": schema.to_json(),
        "spec.json": spec.model_dump(mode="json"),
    }
    files = {source_name: bytes(source), _ARTEFACT: bytes(network_onnx)}
    for name, part in parts.items():
        try:
            files[name] = encode_json(part)
        except (TypeError, ValueError) as error:
            message = (
                f"{name} of model {model!r}: {error}; publish JSON values without NaN or infinity"
            )
            raise GateRefused(message) from error
    manifest = encode_json(
        {
            "format": _FORMAT,
            "model": model,
            "files": {
                name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()
            },
        }
    )
    digest = _sha256(manifest)
    for name, data in [*sorted(files.items()), (_MANIFEST, manifest)]:
        store.put(_path(model, digest, name), data)
    return digest


def load(store: Store, model: str, digest: str) -> Bundle:
    """The bundle, every file checked against its digest.

    Raises NotFound if there is no such bundle (or not yet), CorruptBundle that names the file
    whose bytes differ, and StoreUnavailable.
    """
    where = _path(model, digest, _MANIFEST)
    manifest = store.get(where)
    if _sha256(manifest) != digest:
        raise CorruptBundle(_damaged(where, "its SHA-256 is not the bundle's name"))
    listed = decode_json(manifest, where)
    names = set(listed.get("files", {}))
    sources = names - {*_PARTS, _ARTEFACT}
    known = _FORMATS.get(listed.get("format"), frozenset())
    if len(sources) != 1 or not sources <= known or not names.issuperset({*_PARTS, _ARTEFACT}):
        message = (
            f"{where}: has format {listed.get('format')!r} and files {sorted(names)}; expected "
            f"format {_FORMAT} or older and {sorted((*_PARTS, _ARTEFACT))} with one of "
            f"{sorted(_FORMATS[_FORMAT])}: use the hapredict that wrote it"
        )
        raise CorruptBundle(message)
    source_name = sources.pop()
    files = {
        name: _checked(store, _path(model, digest, name), entry)
        for name, entry in listed["files"].items()
    }
    parts = {
        name: decode_json(data, _path(model, digest, name))
        for name, data in files.items()
        if name.endswith(".json")
    }
    try:
        return Bundle(
            digest=digest,
            spec=build_spec(parts["spec.json"]),
            schema=Schema.from_json(parts["schema.json"]),
            plan=FeaturePlan.from_json(parts["plan.json"]),
            reference=Reference.from_json(parts["reference.json"]),
            network_onnx=files[_ARTEFACT],
            source=files[source_name],
            source_name=source_name,
            golden=Golden.from_json(parts["golden.json"]),
            metrics=parts["card.json"]["metrics"],
            card=parts["card.json"]["card"],
        )
    except Exception as error:  # intact, yet not what this code can read: any part may say so
        message = (
            f"{where}: is intact, but cannot be read ({type(error).__name__}: {error}); "
            "use the hapredict that wrote it, or train again"
        )
        raise CorruptBundle(message) from error


def pack_counts(counts: NDArray[np.int64]) -> str:
    """Counts [groups, bins] as text of about a byte a count; "" for none."""
    if not counts.size:
        return ""
    packed = zlib.compress(np.ascontiguousarray(counts, "<i8").tobytes(), 6)
    return base64.b64encode(packed).decode("ascii")


def unpack_counts(text: str, bins: int) -> NDArray[np.int64]:
    """The counts [groups, bins] that `pack_counts` packed. Raises ValueError or zlib.error."""
    data = zlib.decompress(base64.b64decode(text)) if text else b""
    return np.frombuffer(data, "<i8").astype(np.int64).reshape(-1, max(bins, 1))


def score_bin(reference: Reference, scores: NDArray[Any]) -> NDArray[np.int32]:
    """The bin of each row of scores [rows, outputs]: int32 [rows], 0 to `len(score_edges)`.

    What is binned is the first output, or with several outputs the highest: how sure a classifier
    is. A score at an edge belongs to the bin above it.
    """
    scores = np.asarray(scores, np.float64)
    single = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    edges = np.asarray(reference.score_edges, np.float64)
    return np.searchsorted(edges, single, side="right").astype(np.int32)


def _checked(store: Store, path: str, entry: Mapping[str, Any]) -> bytes:
    try:
        data = store.get(path)
    except NotFound:
        raise CorruptBundle(_damaged(path, "it is missing")) from None
    if len(data) != entry["bytes"]:
        told = f"it has {len(data)} bytes, {entry['bytes']} were published"
        raise CorruptBundle(_damaged(path, told))
    if _sha256(data) != entry["sha256"]:
        raise CorruptBundle(_damaged(path, "its SHA-256 is not the published one"))
    return data


def _damaged(path: str, what: str) -> str:
    return f"{path}: {what}; restore it from a backup of the store, or train again"


def _path(model: str, digest: str, name: str) -> str:
    return f"bundles/{model}/{digest}/{name}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    """JSON values for plain and numpy ones; what is not a finite number becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
