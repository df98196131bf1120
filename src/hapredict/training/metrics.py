"""Numbers that say how good scores are, and verdicts on whether a model may be used.

A verdict has three outcomes: pass, fail and not enough data. A gate that demands a proven gain
costs quality, because a small hold-out can seldom prove one; so `no_harm` fails a challenger only
if it is significantly worse than the champion on the same rows.

Scores are [rows, outputs]: the probability of the positive class, a probability for each class,
or the value in the units of the target.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hapredict.sections import Task

Array = NDArray[Any]
Floats = NDArray[np.float64]

_NEED_MAX = 10_000_000
_PROBABILITY_MIN = 1e-12
_GROUPS = 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found, and the sentence that says why."""

    outcome: Literal["pass", "fail", "not enough data"]
    reason: str
    need: int | None = None
    """Rows that would allow a verdict, where there were too few."""

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"

    @property
    def failed(self) -> bool:
        return self.outcome == "fail"


def evaluate(
    task: Task, labels: Array, scores: Array, quantiles: Mapping[float, Array] | None = None
) -> dict[str, float]:
    """The metrics of scores [rows, outputs] against labels [rows].

    binary: auc, brier, logloss, accuracy (at 0.5), base_rate, calibration_error. multiclass:
    logloss, brier (half the sum over classes, so that it lies in [0, 1]), accuracy,
    calibration_error. regression: mae, rmse, r2, and with `quantiles` (values [rows] by quantile)
    those of `quantile_metrics`. A metric that the labels leave undefined is absent: auc with one
    class only, r2 with equal labels. Raises ValueError on no rows, on other shapes and on values
    that are not finite.
    """
    labels, scores = _checked(task, labels, scores)
    if task == "regression":
        return {**_regression(labels, scores[:, 0]), **quantile_metrics(labels, quantiles or {})}
    if task == "multiclass":
        return _multiclass(labels, scores)
    positive = labels == 1
    score = scores[:, 0]
    likelihood = np.where(positive, score, 1 - score)
    found = {
        "brier": float(np.mean((labels - score) ** 2)),
        "logloss": float(np.mean(-np.log(np.maximum(likelihood, _PROBABILITY_MIN)))),
        "accuracy": float(np.mean((score >= 0.5) == positive)),
        "base_rate": float(np.mean(positive)),
        "calibration_error": calibration_error(labels, scores),
    }
    if positive.any() and not positive.all():
        found = {"auc": auc(labels, score), **found}
    return found


def auc(labels: Array, score: Array) -> float:
    """The chance that a positive row scores above a negative one; ties count half.

    Exact, by average ranks. `labels` [rows] are 0 or 1 and hold both.
    """
    labels, score = np.asarray(labels), np.asarray(score, dtype=np.float64)
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    # twice the average rank is a whole number, so the sum below is exact
    twice_rank = (2 * last - count + 1)[place]
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise ValueError("the AUC needs rows of both classes")
    twice_sum = int(twice_rank[labels == 1].sum())
    return (twice_sum - positives * (positives + 1)) / (2 * positives * negatives)


def calibration_error(labels: Array, scores: Array) -> float:
    """How far probabilities are from what happens, in [0, 1] (expected calibration error).

    scores [rows, 1] of the positive class, or [rows, classes], of which the highest counts. Rows in
    the order of their score are cut into 15 groups of equal size; in each, the mean score is
    compared with the share of rows that it came true for, and the differences are averaged. Honest
    scores of few rows have one too, by chance: about 1/sqrt(rows).
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    score = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    came_true = labels == (1 if scores.shape[1] == 1 else scores.argmax(axis=1))
    order = np.argsort(score, kind="stable")
    groups = np.array_split(order, min(_GROUPS, len(order)))
    # rows of equal score belong together: which of them come first means nothing
    apart = [abs(float((score[rows] - came_true[rows]).sum())) for rows in _by_score(groups, score)]
    return sum(apart) / len(score)


def quantile_metrics(labels: Array, quantiles: Mapping[float, Array]) -> dict[str, float]:
    """How good forecast quantiles are; nothing without any.

    pinball: the mean over rows and quantiles of the loss that the true quantile makes lowest, in
    the units of the target. coverage: the share of labels from the lowest to the highest quantile,
    which should be coverage_wanted.
    """
    if not quantiles:
        return {}
    levels = sorted(quantiles)
    values = np.stack([np.asarray(quantiles[level], np.float64) for level in levels])
    labels = np.asarray(labels, np.float64)
    above = labels - values
    pinball = np.maximum(np.array(levels)[:, None] * above, (np.array(levels)[:, None] - 1) * above)
    inside = (values[0] <= labels) & (labels <= values[-1])
    return {
        "pinball": float(np.mean(pinball)),
        "coverage": float(np.mean(inside)),
        "coverage_wanted": levels[-1] - levels[0],
    }


def losses(task: Task, labels: Array, scores: Array, scale: float = 1.0) -> Floats:
    """The loss of each row, float64 [rows], in [0, 1].

    binary: (label - score)^2. multiclass: half the squared distance to the label's corner.
    regression: |error| / scale, at most 1; other tasks do not use `scale`.
    """
    labels, scores = _checked(task, labels, scores)
    if task == "regression":
        if not scale > 0:
            raise ValueError(f"scale must be above 0; got {scale}")
        return np.minimum(1.0, np.abs(labels - scores[:, 0]) / scale)
    if task == "multiclass":
        return np.minimum(1.0, _half_brier(labels, scores))
    return np.asarray((labels - scores[:, 0]) ** 2)


def expected_losses(task: Task, scores: Array) -> Floats | None:
    """The loss [rows] that honest probabilities [rows, outputs] expect of themselves.

    If what has a score of p comes true with chance p, the mean of `losses` has this mean. None for
    a regression, whose scores do not say how sure they are.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if task == "regression":
        return None
    if task == "multiclass":
        return np.asarray((1 - (scores**2).sum(axis=1)) / 2)
    return np.asarray(scores[:, 0] * (1 - scores[:, 0]))


def loss_scale(task: Task, labels: Array) -> float:
    """The `scale` for `losses` that suits these labels: 1, and for a regression in its units.

    Four mean absolute deviations from the median: ordinary errors then lie well below the bound.
    """
    if task != "regression":
        return 1.0
    wide = np.asarray(labels, dtype=np.float64)
    return 4 * float(np.mean(np.abs(wide - np.median(wide)))) or 1.0


def constant_scores(task: Task, labels: Array, rows: int, outputs: int) -> Floats:
    """What a model that knows nothing but `labels` answers to every row, [rows, outputs].

    The share of each class, or the median.
    """
    wide = np.asarray(labels, dtype=np.float64)
    if task == "regression":
        answer = np.array([np.median(wide)])
    elif task == "multiclass":
        answer = np.bincount(wide.astype(np.int64), minlength=outputs) / len(wide)
    else:
        answer = np.array([np.mean(wide)])
    return np.tile(answer, (rows, 1))


def no_harm(
    task: Task,
    labels: Array,
    champion_scores: Array,
    challenger_scores: Array,
    scale: float = 1.0,
    *,
    rows_min: int = 200,
    alpha: float = 0.05,
) -> Verdict:
    """Whether a challenger does no harm: fails only if it is significantly worse.

    A paired one-sided test at level `alpha` on the bounded losses of the same rows, for one look
    at one hold-out. With fewer than `rows_min` rows there is no verdict. Whoever looks again and
    again needs evidence that stays valid under that instead.
    """
    worse = losses(task, labels, challenger_scores, scale) - losses(
        task, labels, champion_scores, scale
    )
    rows = len(worse)
    if rows < rows_min:
        reason = f"{rows} labelled rows are too few to compare two models; {rows_min} are needed"
        return Verdict("not enough data", reason, need=rows_min)
    mean, z = _z(worse)
    change = f"the challenger's loss is {mean:+.5f} against the champion's on {rows} rows"
    if z > NormalDist().inv_cdf(1 - alpha):
        return Verdict("fail", f"{change}: significantly worse (z = {z:.2f})")
    return Verdict("pass", f"{change}: not significantly worse (z = {z:.2f})")


def sanity(
    task: Task,
    labels: Array,
    scores: Array,
    base_scores: Array | None = None,
    *,
    rows_min: int = 200,
    alpha: float = 0.05,
) -> Verdict:
    """Whether a model beats the constant, on rows that it was not trained on.

    `base_scores` are the constant's, from the training labels (`constant_scores`); without them
    the constant knows the hold-out's own labels, which is harder to beat. pass: a lower mean loss.
    fail: a significantly higher one, so that the model is worse than no model. In between, and
    with fewer than `rows_min` rows, there is not enough data; `need` says how many rows would
    settle a difference of the size seen.
    """
    labels, scores = _checked(task, labels, scores)
    if base_scores is None:
        base_scores = constant_scores(task, labels, len(labels), scores.shape[1])
    scale = loss_scale(task, labels)
    worse = losses(task, labels, scores, scale) - losses(task, labels, base_scores, scale)
    rows = len(worse)
    if rows < rows_min:
        reason = f"{rows} labelled rows are too few to judge a model; {rows_min} are needed"
        return Verdict("not enough data", reason, need=rows_min)
    mean, z = _z(worse)
    limit = NormalDist().inv_cdf(1 - alpha)
    change = f"the model's loss is {mean:+.5f} against a constant's on {rows} rows"
    if mean < 0:
        sure = "" if z < -limit else "not "
        return Verdict("pass", f"{change}: better, {sure}significantly (z = {z:.2f})")
    if z > limit:
        return Verdict("fail", f"{change}: worse than no model (z = {z:.2f})")
    need = ceil(rows * (limit / z) ** 2) if z > 0 else _NEED_MAX
    return Verdict("not enough data", f"{change}: no better", need=min(need, _NEED_MAX))


def summary(metrics: Mapping[str, float]) -> str:
    """The metrics as one short line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _z(differences: Floats) -> tuple[float, float]:
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / sqrt(len(differences))
    # equal differences leave rounding, not spread
    if error <= 1e-12 * abs(mean):
        return mean, float("inf") if mean > 0 else float("-inf") if mean < 0 else 0.0
    return mean, mean / error


def _checked(task: Task, labels: Array, scores: Array) -> tuple[Floats, Floats]:
    labels = np.asarray(labels, dtype=np.float64)
    scores = np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or scores.ndim != 2 or len(labels) != len(scores) or not len(labels):
        message = (
            f"labels [rows] and scores [rows, outputs] of one row at least are expected; "
            f"got {labels.shape} and {scores.shape}"
        )
        raise ValueError(message)
    if task != "multiclass" and scores.shape[1] != 1:
        raise ValueError(f"a {task} model has one output; got {scores.shape[1]}")
    if not (np.isfinite(labels).all() and np.isfinite(scores).all()):
        raise ValueError("labels and scores must be finite numbers")
    classes = {"binary": 2, "multiclass": scores.shape[1]}.get(task)
    if classes is not None and not np.isin(labels, np.arange(classes)).all():
        raise ValueError(f"labels of a {task} model must be whole numbers below {classes}")
    return labels, scores


def _by_score(groups: list[NDArray[np.int64]], score: Floats) -> Iterator[NDArray[np.int64]]:
    """The groups, each joined with the next while their scores meet."""
    held: list[NDArray[np.int64]] = []
    for group in groups:
        if held and score[held[-1][-1]] != score[group[0]]:
            yield np.concatenate(held)
            held = []
        held.append(group)
    yield np.concatenate(held)


def _half_brier(labels: Floats, scores: Floats) -> Floats:
    corners = np.eye(scores.shape[1])[labels.astype(np.int64)]
    return np.asarray(np.sum((corners - scores) ** 2, axis=1) / 2)


def _multiclass(labels: Floats, scores: Floats) -> dict[str, float]:
    index = labels.astype(np.int64)
    likelihood = scores[np.arange(len(index)), index]
    return {
        "logloss": float(np.mean(-np.log(np.maximum(likelihood, _PROBABILITY_MIN)))),
        "brier": float(np.mean(_half_brier(labels, scores))),
        "accuracy": float(np.mean(scores.argmax(axis=1) == index)),
        "calibration_error": calibration_error(labels, scores),
    }


def _regression(labels: Floats, values: Floats) -> dict[str, float]:
    error = values - labels
    spread = float(np.sum((labels - labels.mean()) ** 2))
    found = {"mae": float(np.mean(np.abs(error))), "rmse": float(np.sqrt(np.mean(error**2)))}
    if spread > 0:
        found["r2"] = 1 - float(np.sum(error**2)) / spread
    return found
