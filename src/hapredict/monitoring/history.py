"""What happened when: scores and losses of one champion by stretches of event time.

An alarm says since when something changed. What the model was worth since then is looked up here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

STRETCHES_MAX = 200
"""Stretches that are kept, the newest ones: of a day each, more than half a year."""


@dataclass(frozen=True, slots=True, eq=False)
class Since:
    """The sums of all stretches from some moment on."""

    scores: NDArray[np.int64]
    """Rows [bins] by bin of their score."""
    labels: int
    loss: float
    """Sum of the losses."""
    squares: float
    """Sum of their squares."""
    start_s: float
    """Start of the first stretch with anything in it."""


class History:
    """Sums by stretches of `unit_s` seconds of event time, for scores in `bins` bins."""

    def __init__(self, bins: int, unit_s: float) -> None:
        self._bins = bins
        self._unit_s = unit_s
        self._scores: dict[int, NDArray[np.int64]] = {}
        self._losses: dict[int, tuple[int, float, float]] = {}

    def add_scores(self, counts: ArrayLike, at_s: float) -> None:
        """Rows [bins] of a window that began at `at_s`."""
        place = self._place(at_s)
        found = np.asarray(counts, np.int64)
        self._scores[place] = self._scores.get(place, np.zeros(self._bins, np.int64)) + found
        _shorten(self._scores)

    def add_losses(self, losses: ArrayLike, event_s: ArrayLike) -> None:
        """Losses [labels] of predictions made at `event_s` [labels]."""
        values = np.asarray(losses, np.float64)
        places = np.floor(np.asarray(event_s, np.float64) / self._unit_s).astype(np.int64)
        for place in np.unique(places).tolist():
            held = values[places == place]
            labels, loss, squares = self._losses.get(place, (0, 0.0, 0.0))
            self._losses[place] = (
                labels + len(held),
                loss + float(held.sum()),
                squares + float((held**2).sum()),
            )
        _shorten(self._losses)

    def since(self, at_s: float) -> Since:
        """All from the stretch on in which `at_s` lies."""
        first = self._place(at_s)
        scores = {place: counts for place, counts in self._scores.items() if place >= first}
        losses = {place: sums for place, sums in self._losses.items() if place >= first}
        start = min((*scores, *losses), default=first)
        return Since(
            scores=np.sum([np.zeros(self._bins, np.int64), *scores.values()], axis=0),
            labels=sum(labels for labels, _, _ in losses.values()),
            loss=sum(loss for _, loss, _ in losses.values()),
            squares=sum(squares for _, _, squares in losses.values()),
            start_s=start * self._unit_s,
        )

    def newest(self, stretches: int) -> Since:
        """The newest stretches up to the last one that has scores."""
        last = max(self._scores, default=0)
        return self.since((last - stretches + 1) * self._unit_s)

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [[place, counts.tolist()] for place, counts in self._scores.items()],
            "losses": [[place, *sums] for place, sums in self._losses.items()],
        }

    def restore(self, raw: Mapping[str, Any]) -> None:
        """Go on from where `to_json` was written for the same champion."""
        self._scores = {place: np.array(counts, np.int64) for place, counts in raw["scores"]}
        self._losses = {
            place: (labels, loss, squares) for place, labels, loss, squares in raw["losses"]
        }

    def _place(self, at_s: float) -> int:
        return int(np.floor(at_s / self._unit_s))


def _shorten(held: dict[int, Any]) -> None:
    for place in sorted(held)[: max(0, len(held) - STRETCHES_MAX)]:
        del held[place]
