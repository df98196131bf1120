"""One version of a model, ready to answer: its plan, its network, its reference.

The network runs in ONNX Runtime on one thread: a row takes microseconds, more threads only
disturb each other, and a replica is scaled by its number. Before a version may answer anybody it
must reproduce the scores that were recorded when it was published.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table
from hapredict.errors import CorruptBundle, GateRefused, NotFound, SchemaMismatch, TemporaryError
from hapredict.features.plan import FeaturePlan, Matrices
from hapredict.registry.bundle import Bundle, Golden, Reference, load
from hapredict.registry.catalog import Version
from hapredict.registry.store import Store
from hapredict.spec import Spec
from hapredict.training.extras import EXTRAS, extra_names

GOLDEN_MAX = 1e-4
"""Largest difference to a golden score, relative to the score where that is above 1."""

SPEED_RUNS = 15
"""Rows by which a version's speed is judged, one at a time, by their median."""

_INPUTS = {"numbers": "tensor(float)", "categories": "tensor(int32)"}
_ERRORS_ONLY = 3


class OnnxEngine:
    """A network in ONNX Runtime. Safe to use from several threads."""

    def __init__(self, network: bytes, *, numbers: int, categories: int, outputs: int) -> None:
        """Load a network with `numbers` [rows, numbers] float32 and `categories` [rows,
        categories] int32 as inputs (either absent if it has no column) and [rows, outputs] float32
        `scores`; perhaps also `extras` [rows, m] float32, whose names its metadata list. Raises
        GateRefused if it is not such a network.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                network, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors share no base class
            raise GateRefused(f"network.onnx cannot be loaded: {error}") from error
        self.outputs = outputs
        wanted = {"numbers": numbers, "categories": categories}
        _check_inputs(self._session.get_inputs(), {k: v for k, v in wanted.items() if v})
        if "scores" not in [node.name for node in self._session.get_outputs()]:
            raise GateRefused("network.onnx has no output `scores`; export it again")
        self.extras = _extras(self._session)
        """What the network says beside its scores: the names of the columns, in their order."""
        self._outputs = ["scores", EXTRAS] if self.extras else ["scores"]
        self._numbers = bool(numbers)
        self._categories = bool(categories)

    def scores(self, matrices: Matrices) -> NDArray[np.float32]:
        """[rows, outputs] float32 for the rows of `matrices`."""
        scores: NDArray[np.float32] = self._session.run(["scores"], self._feed(matrices))[0]
        return scores

    def answer(self, matrices: Matrices) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores [rows, outputs], and extras [rows, m] of a network that has some."""
        found = self._session.run(self._outputs, self._feed(matrices))
        return found[0], found[1] if self.extras else None

    def _feed(self, matrices: Matrices) -> dict[str, NDArray[Any]]:
        feed: dict[str, NDArray[Any]] = {}
        if self._numbers:
            feed["numbers"] = matrices.numbers
        if self._categories:
            feed["categories"] = matrices.categories
        return feed


def _extras(session: Any) -> tuple[str, ...]:
    names = extra_names(session)
    widths = [node.shape[1] for node in session.get_outputs() if node.name == EXTRAS]
    if widths != ([len(names)] if names else []):
        raise GateRefused(
            f"network.onnx names the extras {list(names)} and has {widths or 'no'} columns of "
            "them; export it again"
        )
    return names


def _check_inputs(nodes: list[Any], widths: dict[str, int]) -> None:
    found = {node.name: node for node in nodes}
    if set(found) != set(widths):
        raise GateRefused(
            f"network.onnx takes {sorted(found)}; the plan makes {sorted(widths)}: export it again"
        )
    for name, width in widths.items():
        node = found[name]
        if node.type != _INPUTS[name]:
            raise GateRefused(
                f"network.onnx takes `{name}` as {node.type}; expected {_INPUTS[name]}"
            )
        if len(node.shape) != 2 or node.shape[1] not in (width, None):
            raise GateRefused(
                f"network.onnx takes `{name}` of shape {node.shape}; the plan makes [rows, {width}]"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """One version that passed its checks and may answer. Holds no trainable network."""

    number: int
    digest: str
    spec: Spec
    schema: Schema
    plan: FeaturePlan
    reference: Reference
    engine: OnnxEngine
    network_bytes: int = 0
    """Length of its network's file."""

    def scores(self, table: Table) -> NDArray[np.float32]:
        """[rows, outputs] float32, in the order of `schema.classes` where there are several."""
        return self.engine.scores(self.plan.apply(table))

    def answer(self, table: Table) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores as in `scores`, and [rows, len(engine.extras)] of a version that has extras."""
        return self.engine.answer(self.plan.apply(table))


def load_version(
    store: Store, model: str, version: Version, *, speed: "Speed | None" = None
) -> Loaded:
    """The version, loaded, warmed, compared with its golden scores and, by `speed`, fast enough.

    Raises GateRefused with the reason if it must not answer anybody, TemporaryError if the store
    has trouble.
    """
    try:
        bundle = load(store, model, version.digest)
        loaded = _assemble(version.number, bundle)
        check_golden(loaded, bundle.golden)
        if speed is not None:
            check_speed(loaded, bundle.golden, speed)
    except (TemporaryError, GateRefused):
        raise
    except (CorruptBundle, NotFound) as error:
        raise GateRefused(f"its bundle cannot be used: {error}") from error
    except Exception as error:  # whatever a bundle breaks must not break the replica
        raise GateRefused(f"it cannot be loaded: {type(error).__name__}: {error}") from error
    return loaded


def check_golden(loaded: Loaded, golden: Golden) -> None:
    """Raises GateRefused unless the version reproduces its golden scores.

    The call also warms the network, so that the first request pays nothing extra.
    """
    expected = np.asarray(golden.scores, np.float64)
    try:
        scores = loaded.scores(loaded.schema.table(golden.rows)).astype(np.float64)
    except SchemaMismatch as error:
        raise GateRefused(f"its golden rows do not fit its schema: {error}") from error
    if scores.shape != expected.shape or not len(expected):
        raise GateRefused(
            f"its golden scores have shape {expected.shape} and it answers {scores.shape}"
        )
    limits = GOLDEN_MAX * np.maximum(1.0, np.abs(expected))
    wrong = ~(np.abs(scores - expected) <= limits)
    if wrong.any():
        row, output = np.argwhere(wrong)[0]
        raise GateRefused(
            f"{int(wrong.any(axis=1).sum())} of its {len(expected)} golden rows are answered "
            f"differently here, such as row {row}: {scores[row, output]!r} for "
            f"{expected[row, output]!r}; allowed are {GOLDEN_MAX:g}"
        )


@dataclass(frozen=True, slots=True)
class Speed:
    """How much processor time a row may take. `timer` tells the calling thread's, in seconds."""

    timer: Callable[[], float]
    latency_ms_max: float


def check_speed(loaded: Loaded, golden: Golden, speed: Speed) -> None:
    """Raises GateRefused if a version that was warmed takes too long for one row.

    Processor time and the median of several rows: a busy machine makes no version slow.
    """
    columns = golden.rows
    rows = len(golden.scores)
    took_s = []
    for run in range(SPEED_RUNS):
        place = run % rows
        table = loaded.schema.table({name: [column[place]] for name, column in columns.items()})
        began_s = speed.timer()
        loaded.scores(table)
        took_s.append(speed.timer() - began_s)
    took_ms = 1000 * median(took_s)
    if took_ms > speed.latency_ms_max:
        raise GateRefused(
            f"a row takes {took_ms:.3g} ms of a processor (median of {SPEED_RUNS}); "
            f"serving.latency_ms_max allows {speed.latency_ms_max:g}"
        )


def why_not_beside(loaded: Loaded, champion: Loaded) -> str:
    """Why a version cannot answer the same requests as the champion; "" if it can."""
    mine = {column.name: column.kind for column in loaded.schema.features}
    theirs = {column.name: column.kind for column in champion.schema.features}
    if loaded.schema.task != champion.schema.task:
        return (
            f"it is a {loaded.schema.task} model and the champion v{champion.number} a "
            f"{champion.schema.task} one"
        )
    if mine != theirs:
        differing = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
        return (
            f"its features differ from those of the champion v{champion.number} in "
            f"{', '.join(differing)}; requests fit one of the two only"
        )
    if loaded.schema.task == "binary" and loaded.schema.classes != champion.schema.classes:
        return (
            f"it tells {loaded.schema.classes} apart and the champion v{champion.number} "
            f"{champion.schema.classes}"
        )
    return ""


def _assemble(number: int, bundle: Bundle) -> Loaded:
    schema, plan = bundle.schema, bundle.plan
    return Loaded(
        number=number,
        digest=bundle.digest,
        spec=bundle.spec,
        schema=schema,
        plan=plan,
        reference=bundle.reference,
        engine=OnnxEngine(
            bundle.network_onnx,
            numbers=2 * len(schema.numbers),
            categories=len(schema.categories),
            outputs=schema.outputs,
        ),
        network_bytes=len(bundle.network_onnx),
    )
