"""What a model is worth over a stretch: by labels, and without them by what its scores expect.

The estimate is the mean, over live rows, of the loss that rows with such a score had in the
hold-out or, of a classifier, that an honest probability expects of itself. So it follows what the
model sees and is blind to what the model does not: it is true as long as scores mean what they
meant, which is to say without concept drift. Source of the idea: confidence-based performance
estimation, as NannyML describes it; for a regression, direct loss estimation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.monitoring.history import Since
from hapredict.monitoring.report import Estimate, Harm
from hapredict.registry.bundle import Reference

LABELS_MIN = 30
"""Labels without which nothing is said about a stretch."""

ROWS_MIN = 100
"""Rows without which nothing is estimated."""

_BAND = 1.96
"""Standard errors on both sides of an estimate: 95 of 100 cases."""


@dataclass(frozen=True, slots=True)
class Band:
    """A mean loss, and from where to where it may be."""

    loss: float
    low: float
    high: float
    count: int
    """Rows, or labels, behind it."""

    def harm(self, bound: float) -> Harm:
        """Whether the mean loss is above `bound`, as far as the band can tell."""
        if self.low > bound:
            return "worse"
        return "none" if self.high <= bound else "unknown"


def measured(since: Since) -> Band | None:
    """The mean loss of the labels of a stretch; None with too few."""
    if since.labels < LABELS_MIN:
        return None
    mean = since.loss / since.labels
    # half a label that differs more: labels that all agree do not make a band of no width
    spread = (max(since.squares - since.labels * mean**2, 0.0) + 0.5) / since.labels
    half = _BAND * float(np.sqrt(spread / since.labels))
    return Band(mean, max(mean - half, 0.0), min(mean + half, 1.0), since.labels)


class Expected:
    """What the scores of one version let expect.

    `baseline` is the estimate for the hold-out itself.
    """

    def __init__(self, reference: Reference) -> None:
        self.losses = np.array(reference.score_losses)
        self._spreads = np.array(reference.score_loss_spreads)
        self._rows = np.array(reference.score_counts, np.float64)
        total = float(self._rows.sum())
        self.baseline = float((self._rows * self.losses).sum() / total) if total else 0.0

    @staticmethod
    def of(reference: Reference) -> "Expected | None":
        """None where the reference does not say what a score lets expect."""
        known = len(reference.score_losses) and len(reference.score_loss_spreads)
        return Expected(reference) if known and sum(reference.score_counts) else None

    def band(self, scores: ArrayLike) -> Band | None:
        """The estimate for rows [bins] by bin of their score; None for too few rows.

        Its width has three sources: the hold-out was finite; so are these rows, whose labels will
        scatter; and rows that crowd into an outermost bin may lie farther out than any before, by
        as much again as that bin lies from its neighbour.
        """
        counts = np.asarray(scores, np.float64)
        rows = float(counts.sum())
        if rows < ROWS_MIN:
            return None
        share = counts / rows
        mean = float(share @ self.losses)
        of_model = share**2 @ (self._spreads**2 / np.maximum(self._rows, 1))
        of_rows = share @ ((self.losses - mean) ** 2 + self._spreads**2) / rows
        half = _BAND * float(np.sqrt(of_model + of_rows)) + self._beyond(share)
        return Band(mean, max(mean - half, 0.0), min(mean + half, 1.0), int(rows))

    def _beyond(self, share: NDArray[np.float64]) -> float:
        if len(share) < 2:
            return 0.0
        crowd = np.maximum(share - self._rows / self._rows.sum(), 0.0)
        steps = np.abs(np.diff(self.losses))
        return float(crowd[0] * steps[0] + crowd[-1] * steps[-1])

    def estimate(self, since: Since) -> Estimate | None:
        """The estimate for a stretch, as it is reported."""
        band = self.band(since.scores)
        if band is None:
            return None
        return Estimate(band.loss, band.low, band.high, self.baseline, band.count, since.start_s)
