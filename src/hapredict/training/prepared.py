"""What a preparation leaves behind, and keeping it so that the next run need not read the data.

    prepared/<model>/files.json               hashes of input files by path, size and time of change
    prepared/<model>/<key>/used.json          when a run last asked for it
                           <sha256>.rows      training rows; the rows that judge
                           <sha256>.arrow     raw columns of the hold-out rows
                           <sha256>.npy       labels of training rows
                           <sha256>.npz       counts of bins by the hour, if rows have a time
                           manifest.json      everything else; written last

The key is a hash of all that the result depends on. Where there is a manifest there is a whole
preparation, and each file bears the hash of its bytes, so damage shows.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from hapredict.data.rows import RowCounts
from hapredict.data.schema import Schema, Table
from hapredict.errors import CorruptBundle, NotFound
from hapredict.features.clock import Clocked
from hapredict.features.plan import FeaturePlan
from hapredict.sections import DataSpec, FeatureSpec, TrainingSpec
from hapredict.training.network import Examples
from hapredict.training.shards import Files, Shard, ShardSet, find_damage, load, put_shard

KEPT = 3
"""Preparations a model that are kept, the last used ones."""
LABELS_MAX = 1_000_000
"""Training labels that come back to the learner, spread evenly."""

_MANIFEST = "manifest.json"
_USED = "used.json"
_CLOCKED = ("hourly", "stretch", "counts", "hours")


class Store(Files, Protocol):
    """Files that can be listed and removed, as those of a registry's store."""

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""

    def children(self, prefix: str) -> list[str]:
        """Names of the folders directly in a folder that hold a file."""

    def list(self, prefix: str) -> list[str]:
        """Full paths of the files in a folder and below it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows are prepared; with the data themselves, all that the result depends on."""

    data: DataSpec
    features: FeatureSpec
    validation_share: float
    holdout_share: float
    judged_rows_max: int

    @staticmethod
    def of(data: DataSpec, features: FeatureSpec, training: TrainingSpec) -> "Recipe":
        """What sections of a spec say."""
        return Recipe(
            data,
            features,
            training.validation_share,
            training.holdout_share,
            training.judged_rows_max,
        )

    def key(self, **inputs: Any) -> str:
        """The name of the result for `inputs` (JSON values: hashes of files, of code...).

        Where the files are is no matter.
        """
        own = asdict(self) | {
            "data": self.data.model_dump(mode="json", exclude={"sources"}),
            "features": self.features.model_dump(mode="json"),
        }
        return hashlib.sha256(_json({"recipe": own, "inputs": inputs})).hexdigest()[:32]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that training and judging need of the data. Rows are usable ones."""

    schema: Schema
    plan: FeaturePlan
    counts: RowCounts
    first: float
    """The smallest order of a row: its time, or chance in [0, 1) where data have no time."""
    last: float
    bins: NDArray[np.int64]
    """[sum(plan.bin_totals)]: rows in each bin of each feature, of all rows."""
    train: ShardSet
    labels: NDArray[np.float32]
    """Of training rows: all, or LABELS_MAX spread evenly."""
    validation: Examples
    """In order; at most `training.judged_rows_max`, spread evenly, as is the hold-out."""
    held: Examples
    held_table: Table
    """Raw columns of `held`, row by row."""
    clocked: Clocked | None = None
    """The rows behind `bins` by the hour and in stretches of time, if they have a time."""


def folder_of(model: str, key: str = "") -> str:
    """Where a model's preparations are in the store, or one of them."""
    return f"prepared/{model}/{key}".rstrip("/")


def write(store: Store, prefix: str, prepared: Prepared) -> None:
    """Keep a preparation whose training shards are in `prefix` already: the manifest makes it one.

    Raises what the store raises.
    """
    schema = prepared.schema
    judged = {
        name: put_shard(store, prefix, examples, np.zeros(examples.rows))
        for name, examples in (("validation", prepared.validation), ("held", prepared.held))
    }
    labels = io.BytesIO()
    np.save(labels, prepared.labels, allow_pickle=False)
    clocked = ""
    if prepared.clocked is not None:
        file = io.BytesIO()
        np.savez_compressed(file, **{name: getattr(prepared.clocked, name) for name in _CLOCKED})
        clocked = _put(store, prefix, file.getvalue(), "npz")
    manifest = {
        "clocked": clocked,
        "schema": schema.to_json(),
        "plan": prepared.plan.to_json(),
        "counts": asdict(prepared.counts),
        "first": prepared.first,
        "last": prepared.last,
        "bins": prepared.bins.tolist(),
        "train": prepared.train.to_json(),
        "labels": _put(store, prefix, labels.getvalue(), "npy"),
        "held_table": _put(store, prefix, _table_bytes(prepared.held_table), "arrow"),
        **{name: [part.sha256, part.rows, part.bytes] for name, part in judged.items()},
    }
    store.put(f"{prefix}/{_MANIFEST}", _json(manifest))


def read(store: Store, prefix: str, folder: str | None) -> Prepared | None:
    """What `write` kept in `prefix`, which is `folder` on disk if it has a path; None if nothing.

    Training shards are not looked at. Raises CorruptBundle that names a damaged file.
    """
    path = f"{prefix}/{_MANIFEST}"
    try:
        data = store.get(path)
    except NotFound:
        return None
    try:
        raw = json.loads(data)
        train = ShardSet.from_json(raw["train"], prefix, folder, store)
        schema = Schema.from_json(raw["schema"])
        return Prepared(
            schema=schema,
            plan=FeaturePlan.from_json(raw["plan"]),
            counts=RowCounts(**raw["counts"]),
            first=float(raw["first"]),
            last=float(raw["last"]),
            bins=np.array(raw["bins"], np.int64),
            train=train,
            labels=np.load(io.BytesIO(_get(store, prefix, raw["labels"])), allow_pickle=False),
            validation=_judged(train, raw["validation"]),
            held=_judged(train, raw["held"]),
            held_table=_table_of(_get(store, prefix, raw["held_table"])),
            clocked=_clocked_of(store, prefix, raw["clocked"]),
        )
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise CorruptBundle(f"{path}: is not what was written ({error!r})") from error


def discard(store: Store, prefix: str) -> None:
    """Remove a preparation, the manifest first, so that at no time half of one counts."""
    store.delete(f"{prefix}/{_MANIFEST}")
    for path in store.list(prefix):
        store.delete(path)


def mark_used(store: Store, prefix: str, at_s: float) -> None:
    """Note that a run asked for it at `at_s`; the last used ones are kept."""
    store.put(f"{prefix}/{_USED}", _json({"at_s": at_s}))


def discard_old(store: Store, model: str, kept: int = KEPT) -> list[str]:
    """Remove all but the last used preparations of a model; the keys of those that are gone."""

    def used_s(key: str) -> float:
        try:
            return float(json.loads(store.get(f"{folder_of(model, key)}/{_USED}"))["at_s"])
        except (NotFound, ValueError, KeyError, TypeError):
            return 0.0  # begun by somebody who died at once

    keys = sorted(store.children(folder_of(model)), key=lambda key: (used_s(key), key))
    gone = keys[: max(0, len(keys) - kept)]
    for key in gone:
        discard(store, folder_of(model, key))
    return gone


def known_hashes(store: Store, model: str) -> dict[str, list[Any]]:
    """Hashes of files noted before: [size, time of change in ns, sha256] by path."""
    try:
        found = json.loads(store.get(f"{folder_of(model)}/files.json"))
    except (NotFound, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def note_hashes(store: Store, model: str, hashes: Mapping[str, list[Any]]) -> None:
    """Note hashes of files for the next run."""
    store.put(f"{folder_of(model)}/files.json", _json(hashes))


def _judged(train: ShardSet, raw: list[Any]) -> Examples:
    shard = Shard(*raw)
    if damage := find_damage(train, shard):
        raise CorruptBundle(damage)
    return load(
        ShardSet(
            key=train.key,
            prefix=train.prefix,
            numbers=train.numbers,
            categories=train.categories,
            has_ids=False,
            shards=(shard,),
            folder=train.folder,
            files=train.files,
        )
    )


def _put(store: Files, prefix: str, data: bytes, ending: str) -> str:
    name = f"{hashlib.sha256(data).hexdigest()}.{ending}"
    store.put(f"{prefix}/{name}", data)
    return name


def _get(store: Files, prefix: str, name: str) -> bytes:
    try:
        data = store.get(f"{prefix}/{name}")
    except NotFound as error:
        raise CorruptBundle(str(error)) from error
    if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
        raise CorruptBundle(f"{prefix}/{name}: has other bytes than those that were written")
    return data


def _table_bytes(table: Table) -> bytes:
    arrays = {
        name: pa.array(column, pa.string() if column.dtype == object else pa.float64())
        for name, column in table.items()
    }
    file = io.BytesIO()
    found = pa.table(arrays)
    with ipc.new_file(file, found.schema) as writer:
        writer.write_table(found)
    return file.getvalue()


def _table_of(data: bytes) -> Table:
    found = ipc.open_file(data).read_all()
    table = {}
    for name in found.column_names:
        column = found.column(name).to_numpy()
        table[name] = column if column.dtype == np.float64 else column.astype(object)
    return table


def _clocked_of(store: Files, prefix: str, name: str) -> Clocked | None:
    if not name:
        return None
    with np.load(io.BytesIO(_get(store, prefix, name)), allow_pickle=False) as found:
        return Clocked(**{part: found[part] for part in _CLOCKED})


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
