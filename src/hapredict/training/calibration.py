"""Chooses the finish that makes a classifier's scores honest, and says what it gained.

What is chosen must show on the rows it is fitted to: without a significant gain the scores stay as
they are, for a function fitted to noise makes them worse. A line through the logits is fitted by
Newton's method on the log loss (temperature scaling, Guo et al., 2017; with an offset for two
classes, Platt, 1999). Isotonic pieces follow the shares of positives, group by group, and must
prove themselves on rows that they were not fitted to.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.sections import TrainingSpec
from hapredict.training.finish import Finish, Floats, weight_offsets
from hapredict.training.metrics import calibration_error
from hapredict.training.network import Examples, NetworkShape

OFFSET_ROWS_MIN = 3000
"""Rows without which a slope is all: few rows are of few days, whose share of positives is not that
of the months to come."""
ROWS_MIN = 200
"""Rows below which nothing is calibrated."""
ISOTONIC_ROWS_MIN = 2000
KNOTS_MAX = 16

_CHI2 = {1: 3.84, 2: 5.99}
"""Twice the gain in log likelihood that so many more numbers must bring, at a level of 5 percent
(Wilks, 1938)."""
_Z = 1.645
"""The same for a mean gain on unseen rows, in standard errors."""
_STEPS = 50
_SLOPE_MIN, _SLOPE_MAX = 0.05, 20.0
_PRIOR_ROWS = 2.0
"""Rows at the share of all positives that each group is mixed with, so that none says never."""
_RISE_MIN = 0.05
"""Least slope between knots: isotonic scores must not tie what the model tells apart."""


def set_aside(
    shape: NetworkShape, spec: TrainingSpec, validation: Examples
) -> tuple[Examples, Examples | None]:
    """Validation rows that choose the best pass, and those that calibrate.

    The newest `calibration_share` of the rows, which are in order, calibrate; None where nothing is
    to be calibrated, or where they would be too few: then all choose.
    """
    rows = round(validation.rows * spec.calibration_share)
    if shape.task == "regression" or spec.calibration == "none" or rows < ROWS_MIN:
        return validation, None
    cut = validation.rows - rows
    return validation.take(slice(0, cut)), validation.take(slice(cut, None))


def fit_finish(
    shape: NetworkShape, spec: TrainingSpec, logits: NDArray[Any], labels: NDArray[Any]
) -> tuple[Finish, dict[str, Any]]:
    """The finish for logits [rows, outputs] with labels [rows], and a report as JSON values.

    The rows must be unknown to the weights. The report holds `kind`, `reason`, `rows`, and of a
    classifier with rows the log loss and calibration error before and after, on these rows.
    """
    rows, none = len(labels), Finish()
    if shape.task == "regression":
        return none, {
            "kind": none.kind,
            "rows": rows,
            "reason": "a regression has no probabilities",
        }
    if spec.calibration == "none":
        return none, {"kind": none.kind, "rows": rows, "reason": "training.calibration is none"}
    if rows < ROWS_MIN:
        reason = f"{rows} rows are too few to calibrate; {ROWS_MIN} are needed"
        return none, {"kind": none.kind, "rows": rows, "reason": reason}
    labels = np.asarray(labels).astype(np.int64)
    finish, reason = _line(shape, logits, labels)
    if spec.calibration == "isotonic":
        finish, reason = _isotonic(shape, logits, labels, finish, reason)
    return finish, {
        "kind": finish.kind,
        "reason": reason,
        "rows": rows,
        **_before_and_after("logloss", _log_loss, shape, finish, logits, labels),
        **_before_and_after("calibration_error", _error, shape, finish, logits, labels),
    }


def _before_and_after(
    name: str, measure: Any, shape: NetworkShape, finish: Finish, logits: Any, labels: Any
) -> dict[str, float]:
    before, after = (measure(shape, each, logits, labels) for each in (Finish(), finish))
    return {f"{name}_before": before, f"{name}_after": after}


def _line(shape: NetworkShape, logits: NDArray[Any], labels: NDArray[Any]) -> tuple[Finish, str]:
    """A slope, and an offset too for two classes, each if the log loss gains enough by it."""
    values = np.asarray(logits, np.float64) - weight_offsets(shape)
    best, loss = Finish(), _log_loss(shape, Finish(), logits, labels)
    reason = "the scores are as honest as these rows can tell"
    shifted = shape.task == "binary" and len(labels) >= OFFSET_ROWS_MIN
    for offset in (False, True) if shifted else (False,):
        found = _newton(values, labels, offset=offset)
        if found is None:
            if best.kind == "none":
                reason = "no rising line fits these rows; the scores stay as they are"
            continue
        numbers = 1 + offset - (0 if best.kind == "none" else 1)
        gain = loss - _log_loss(shape, found, logits, labels)
        if 2 * gain * len(labels) > _CHI2[numbers]:
            best, loss = found, loss - gain
            reason = "a line through the logits lowers the log loss of these rows significantly"
    return best, reason


def _newton(values: Floats, labels: NDArray[Any], *, offset: bool) -> Finish | None:
    """The line with the lowest log loss; None if it does not rise, or never settles."""
    binary = values.shape[1] == 1
    line = np.array([1.0, 0.0])
    free = slice(0, 2 if offset else 1)
    for _ in range(_STEPS):
        if binary:
            ahead = np.stack([values[:, 0], np.ones(len(values))], axis=1)[:, free]
            score = 0.5 * (1 + np.tanh((line[0] * values[:, 0] + line[1]) / 2))
            slope = ahead.T @ (score - labels)
            bend = (ahead * (score * (1 - score))[:, None]).T @ ahead
        else:
            powers = np.exp(line[0] * (values - values.max(axis=1, keepdims=True)))
            shares = powers / powers.sum(axis=1, keepdims=True)
            mean = (shares * values).sum(axis=1)
            slope = np.array([np.sum(mean - values[np.arange(len(labels)), labels])])
            spread = (shares * (values - mean[:, None]) ** 2).sum()
            bend = np.array([[spread]])
        # a touch of the identity keeps the step finite where nothing bends
        step = np.linalg.solve(bend + 1e-9 * len(values) * np.eye(len(bend)), slope)
        # far from the end a whole step may overshoot; half of the slope is always safe
        step *= min(1.0, 0.5 * line[0] / max(abs(step[0]), 1e-300))
        line[free] -= step
        if not np.isfinite(line).all() or not _SLOPE_MIN < line[0] < _SLOPE_MAX:
            return None
        if np.abs(step).max() < 1e-10:
            return Finish(float(line[0]), float(line[1]))
    return None


def _isotonic(
    shape: NetworkShape, logits: NDArray[Any], labels: NDArray[Any], line: Finish, reason: str
) -> tuple[Finish, str]:
    """Knots, if they are better than the line on rows that they were not fitted to."""
    rows = len(labels)
    if shape.task != "binary":
        return line, f"isotonic is for binary models; {reason}"
    if rows < ISOTONIC_ROWS_MIN:
        return line, f"{rows} rows are fewer than isotonic's {ISOTONIC_ROWS_MIN}; {reason}"
    values = (np.asarray(logits, np.float64) - weight_offsets(shape))[:, 0]
    gain = np.zeros(rows)
    # halves in the order of the rows, which is that of time: neighbours may share their luck
    for one in (np.arange(rows) < rows // 2, np.arange(rows) >= rows // 2):
        knots = isotonic_knots(values[one], labels[one])
        pieces = Finish(knots=knots) if knots else line
        gain[~one] = _row_losses(shape, line, logits[~one], labels[~one])
        gain[~one] -= _row_losses(shape, pieces, logits[~one], labels[~one])
    error = float(gain.std(ddof=1)) / rows**0.5
    knots = isotonic_knots(values, labels)
    if not knots or not gain.mean() > _Z * error:
        return line, f"isotonic is not significantly better on unseen rows; {reason}"
    return Finish(knots=knots), "isotonic lowers the log loss of unseen rows significantly"


def isotonic_knots(values: Floats, labels: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    """Rising knots through the shares of positives by logit [rows]; none if there are not two.

    Groups of equal size are merged with their neighbours until their shares rise (pool adjacent
    violators). A knot lies at a group's mean logit.
    """
    rows = len(values)
    overall = float(labels.mean())
    groups = np.array_split(np.argsort(values, kind="stable"), min(KNOTS_MAX, rows))
    pooled: list[tuple[float, float, float]] = []  # rows, positives, sum of logits
    for group in groups:
        # mixing with the overall share belongs before the pooling, or it may undo the order
        here = (
            len(group) + _PRIOR_ROWS,
            float(labels[group].sum()) + _PRIOR_ROWS * overall,
            float(values[group].mean() * (len(group) + _PRIOR_ROWS)),
        )
        while pooled and pooled[-1][1] * here[0] >= here[1] * pooled[-1][0]:
            last = pooled.pop()
            here = (last[0] + here[0], last[1] + here[1], last[2] + here[2])
        pooled.append(here)
    shares = [positives / count for count, positives, _ in pooled]
    knots: list[tuple[float, float]] = []
    for (count, _, total), share in zip(pooled, shares, strict=True):
        if not 0 < share < 1:
            return ()  # one class only
        x, y = total / count, float(np.log(share / (1 - share)))
        if knots:
            if not x > knots[-1][0]:
                continue  # equal logits
            y = max(y, knots[-1][1] + _RISE_MIN * (x - knots[-1][0]))
        knots.append((x, y))
    return tuple(knots) if len(knots) > 1 else ()


def _row_losses(shape: NetworkShape, finish: Finish, logits: Any, labels: NDArray[Any]) -> Floats:
    """The log loss of each row, [rows], from logits, so that no certainty makes it infinite."""
    found = finish.calibrated(shape, logits)
    if shape.task == "binary":
        return np.asarray(np.logaddexp(0, np.where(labels == 1, -found[:, 0], found[:, 0])))
    highest = found.max(axis=1)
    total = highest + np.log(np.exp(found - highest[:, None]).sum(axis=1))
    return np.asarray(total - found[np.arange(len(labels)), labels])


def _log_loss(shape: NetworkShape, finish: Finish, logits: Any, labels: NDArray[Any]) -> float:
    return float(_row_losses(shape, finish, logits, labels).mean())


def _error(shape: NetworkShape, finish: Finish, logits: Any, labels: NDArray[Any]) -> float:
    return calibration_error(labels, finish.scores(shape, logits))
