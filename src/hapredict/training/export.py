"""From a fitted model of any family to what replicas load, proven to be the same model.

Nothing leaves here unproven: the artefact runs on ONNX Runtime against the library that fitted it,
over real rows and over rows made to break it. Scores must agree, and so must their order, for a
model of rare events may be close everywhere and still rank at random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hapredict.errors import GateRefused
from hapredict.sections import TrainingSpec
from hapredict.training.calibration import fit_finish
from hapredict.training.extras import EXTRAS, extra_names
from hapredict.training.families import find_family
from hapredict.training.finish import Finish, Floats
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.onnx_graph import Graph, to_model

SOURCES = {"network": "network.keras", "trees": "trees.ubj"}
"""The file that training can go on from, by the kind of the family."""
RANK_SHIFT_MAX = 1e-3
"""Largest change of a row's place among the real rows, as a share of them."""

_ROWS_MAX = 20_000
_HARD_ROWS = 96
_EXTREME = 1e6
_DENORMAL = 1e-40
_LATENCY_CALLS = 300
_LOGIT_TOLERANCE = 1e-4
"""Rows whose logits (or standardised values) differ less than this count as tied."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A model in the form that replicas load, and the proof that it is the same model."""

    onnx: bytes
    """Inputs `numbers` and `categories`, as the shape has them; output `scores` [rows, outputs],
    and perhaps `extras` [rows, m], whose names are in the model's metadata."""
    source: bytes
    """What training can go on from: a `.keras` file, or XGBoost's UBJSON."""
    source_name: str
    """The name of that file."""
    parity: float
    """Largest difference of a score between the two; of a regression in units of label_scale."""
    rows: int
    """Rows that were compared."""
    finish: Finish
    report: dict[str, Any]
    """JSON values: `bytes`, `latency_us` (median of one row on one core; absent without a clock),
    `parity`, `rows`, `rank_shift` (see `rank_shift`), `finish`, `calibration` (see `fit_finish`)
    and `extras`, their names."""


def export(
    shape: NetworkShape,
    spec: TrainingSpec,
    weights: bytes,
    sample: Examples,
    calibration: Examples | None,
    *,
    clock: Callable[[], float] | None = None,
) -> Exported:
    """The model with these weights as an artefact and as its source.

    Compared on the sample's first 20,000 rows, and on rows with missing, unseen and extreme values.
    The `calibration` rows, which neither trained the model nor chose its pass, make a classifier's
    scores honest. `clock` tells seconds. Raises GateRefused if the model has no ONNX form, if the
    graph's inputs are not the shape's, if a score differs by more than `spec.parity_max`, or if a
    row's place differs by more than RANK_SHIFT_MAX.
    """
    family = find_family(spec.family)
    exporter = import_module(family.exporter)
    sample = sample.take(slice(0, _ROWS_MAX))
    rows = join((sample, hard_rows(shape)))
    asked = rows if calibration is None else join((rows, calibration))
    found = getattr(exporter, "member_logits", exporter.logits)(shape, spec, weights, asked)
    logits = found.mean(axis=1) if found.ndim == 3 else found
    labels = asked.labels[rows.rows :]
    finish, calibrated = fit_finish(shape, spec, logits[rows.rows :], labels)
    graph = Graph()
    artefact = to_model(graph, exporter.graph_logits(graph, shape, spec, weights), shape, finish)
    expected = finish.scores(shape, logits[: rows.rows])
    beside = expected_extras(shape, finish, found[: rows.rows])
    scores, extras = artefact_scores(artefact, shape, rows)
    parity = max(
        _difference(shape, expected, scores, 1),
        _difference(shape, beside, extras, _sure(shape, expected, spec.parity_max)),
    )
    if not parity <= spec.parity_max:
        raise GateRefused(
            f"the exported model differs from the fitted one by {parity:.2e} in a score, over "
            f"{rows.rows} rows; training.parity_max allows {spec.parity_max:.2e}"
        )
    shift = rank_shift(shape, expected[: sample.rows], scores[: sample.rows])
    if not shift <= RANK_SHIFT_MAX:
        raise GateRefused(
            f"the exported model ranks a row {shift:.2%} of {sample.rows} rows away from where "
            f"the fitted one does; {RANK_SHIFT_MAX:.2%} are allowed"
        )
    report = {
        "bytes": len(artefact),
        "parity": parity,
        "rank_shift": shift,
        "rows": rows.rows,
        "finish": finish.to_json(),
        "calibration": calibrated,
        "extras": list(extra_names(_session(artefact))),
    }
    if clock is not None:
        report["latency_us"] = round(latency_us(artefact, shape, rows.take(slice(0, 1)), clock), 1)
    return Exported(
        artefact,
        exporter.source(shape, spec, weights),
        SOURCES[family.kind],
        parity,
        rows.rows,
        finish,
        report,
    )


def artefact_scores(
    artefact: bytes, shape: NetworkShape, examples: Examples
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """ONNX Runtime's scores [rows, outputs] and extras [rows, m], which may be none.

    Raises GateRefused if inputs or outputs are not those that a replica expects.
    """
    session = _session(artefact)
    names = tuple(value.name for value in session.get_inputs())
    outputs = [value.name for value in session.get_outputs()]
    if names != shape.inputs or outputs not in (["scores"], ["scores", EXTRAS]):
        raise GateRefused(
            f"the exported model takes {names} and answers {outputs}; a replica gives "
            f"{shape.inputs} and reads ['scores'], and perhaps ['{EXTRAS}']"
        )
    found = session.run(outputs, _feed(shape, examples))
    none = np.zeros((examples.rows, 0), np.float32)
    return found[0], found[1] if len(found) > 1 else none


def expected_extras(shape: NetworkShape, finish: Finish, found: Floats) -> Floats:
    """The extras [rows, m] of logits [rows, outputs] or [rows, members, outputs]."""
    if found.ndim == 2:
        return finish.quantiles(shape, found)
    both = (finish.quantiles(shape, found.mean(axis=1)), finish.uncertainty(shape, found))
    return np.concatenate(both, axis=1)


def rank_shift(shape: NetworkShape, expected: NDArray[Any], scores: NDArray[Any]) -> float:
    """How far a row's place moves at most, as a share of all rows, for scores [rows, outputs].

    A row may stand anywhere among the rows that it is tied with: whose logits differ from its own
    by less than 0.0003, or whose scores a float32 cannot tell apart. Small scores are thus held to
    the same share of their size as large ones.
    """
    worst = 0.0
    rows = len(expected)
    for column in range(expected.shape[1]):
        wanted = np.asarray(expected[:, column], np.float64)
        if shape.task == "regression":
            bend = np.full(rows, shape.label_scale)
        else:
            bend = wanted * (1 - wanted)
        # three times: both rows of a pair may be off, and the bend changes a little between them
        tied = 3 * (_LOGIT_TOLERANCE * bend + np.finfo(np.float32).eps * np.abs(wanted))
        ordered = np.sort(wanted)
        first = np.searchsorted(ordered, wanted - tied, side="left")
        last = np.searchsorted(ordered, wanted + tied, side="right")
        got = np.asarray(scores[:, column], np.float64)
        again = np.sort(got)
        # equal scores share their places: telling fewer rows apart moves them, too
        lowest, beyond = (np.searchsorted(again, got, side=side) for side in ("left", "right"))
        place = (lowest + beyond - 1) / 2
        shift = np.maximum(first - place, place - (last - 1))
        worst = max(worst, float(np.max(shift, initial=0)))
    return worst / max(1, rows)


def latency_us(
    artefact: bytes, shape: NetworkShape, row: Examples, clock: Callable[[], float]
) -> float:
    """Microseconds that scoring one row takes: the median of many calls on one core."""
    session, feed = _session(artefact), _feed(shape, row)
    taken = []
    for _ in range(_LATENCY_CALLS):
        began_s = clock()
        session.run(["scores"], feed)
        taken.append(clock() - began_s)
    return float(np.median(taken)) * 1e6


def hard_rows(shape: NetworkShape) -> Examples:
    """Rows in which one thing after the other is missing, unseen, extreme, tiny, or at an edge."""
    chance = np.random.default_rng(0)
    count = len(shape.edges)
    top = np.array(shape.levels, dtype=np.int64)
    values = chance.normal(size=(_HARD_ROWS, count)).astype(np.float32)
    missing = np.zeros((_HARD_ROWS, count), dtype=np.float32)
    codes = chance.integers(0, top, (_HARD_ROWS, len(top)))
    kinds = np.arange(_HARD_ROWS) % 12
    values[kinds == 1] *= 1e3
    values[kinds == 2] = _EXTREME
    values[kinds == 3] = -_EXTREME
    missing[kinds == 4] = 1
    for kind, towards in ((5, None), (7, np.inf), (8, -np.inf)):
        for row in np.flatnonzero(kinds == kind):
            picked = [edges[row // 12 % len(edges)] for edges in shape.edges]
            values[row] = picked
            if towards is not None:  # the nearest number beside an edge is another bin, or leaf
                values[row] = np.nextafter(values[row], np.float32(towards))
    missing[kinds == 6] = chance.integers(0, 2, (int(np.sum(kinds == 6)), count))
    values[kinds == 9] = _DENORMAL * chance.choice([-1, 1], (int(np.sum(kinds == 9)), count))
    values[kinds == 10] = 0
    values[kinds == 11] *= 1e9
    values[missing == 1] = 0
    codes[kinds == 4] = 0
    codes[kinds == 2] = 1
    codes[kinds == 3] = top - 1
    return Examples(
        np.concatenate([values, missing], axis=1),
        codes.astype(np.int32),
        np.zeros(_HARD_ROWS, dtype=np.float32),
    )


def join(parts: tuple[Examples, ...]) -> Examples:
    """All rows of the parts, one part after the other."""
    return Examples(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.categories for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def _difference(
    shape: NetworkShape, expected: NDArray[Any], got: NDArray[Any], counted: Any
) -> float:
    if got.shape != expected.shape:
        raise GateRefused(f"the exported scores are {got.shape}; expected {expected.shape}")
    # far from all labels, float32 holds a regression's value only to a share of it
    size = np.maximum(1.0, np.abs(expected - shape.label_mean) / shape.label_scale)
    apart = np.abs(expected - got) / size * counted
    return float(np.max(apart, initial=0.0)) / shape.label_scale


def _sure(shape: NetworkShape, scores: Floats, parity_max: float) -> Any:
    """Which rows' extras can be compared, [rows, 1].

    Where two classes are as likely as each other, rounding decides whose uncertainty is told.
    """
    if shape.task != "multiclass":
        return 1
    second, first = np.sort(scores, axis=1)[:, -2:].T
    return (first - second > 2 * parity_max)[:, None]


def _session(artefact: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])


def _feed(shape: NetworkShape, examples: Examples) -> dict[str, NDArray[Any]]:
    given = {"numbers": examples.numbers, "categories": examples.categories}
    return {name: given[name] for name in shape.inputs}
