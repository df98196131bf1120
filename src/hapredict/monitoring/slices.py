"""Losses by slice: a model that became bad for one airport only is not seen in the mean of all.

A slice is one value of one category column, such as "origin=JFK". Which ones are watched is frozen
with the reference, and so is what each one's loss was in the hold-out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Table
from hapredict.monitoring.betting import LossDetector, loss_bound
from hapredict.monitoring.report import Alarm, SliceLoss
from hapredict.monitoring.sentences import loss_alarm
from hapredict.monitoring.view import View
from hapredict.sections import DAY_S

NO_SLICE = -1
"""Stands for a value that is not watched."""


class SliceCodes:
    """A small number for each slice that any champion watched: what a waiting row remembers."""

    def __init__(self, names: Mapping[str, int] | None = None) -> None:
        self.names = dict(names or {})

    def of(self, name: str) -> int:
        """The number of a slice; a new one if it has none."""
        return self.names.setdefault(name, len(self.names))


class Slices:
    """The slices of one champion.

    The level of false alarms is shared by all of them. The stricter baseline of an `earlier`
    champion is kept, as for the mean of all rows.
    """

    def __init__(self, view: View, codes: SliceCodes, earlier: "Slices | None" = None) -> None:
        self._version = view.number
        self._columns = {
            column: {value: codes.of(f"{column}={value}") for value in values}
            for column, values in view.reference.slices.items()
        }
        own = {
            codes.of(f"{column}={value}"): (f"{column}={value}", baseline)
            for column, values in view.reference.slices.items()
            for value, baseline in values.items()
        }
        self._names = {code: name for code, (name, _) in own.items()}
        before: dict[int, tuple[float, int]] = earlier.baselines if earlier is not None else {}
        self.baselines: dict[int, tuple[float, int]] = {
            code: min(
                (baseline, before.get(code, baseline)),
                key=lambda one: loss_bound(one[0], one[1], view.rules.loss_tolerance),
            )
            for code, (_, baseline) in own.items()
        }
        rules = view.rules
        self._detectors = {
            code: LossDetector(
                loss_bound(*baseline, rules.loss_tolerance),
                rules.false_alarm_windows * len(own),
                rules.loss_window_labels,
                rules.window_days * DAY_S,
            )
            for code, baseline in self.baselines.items()
        }
        self._rows = dict.fromkeys(own, 0)
        self._sums = dict.fromkeys(own, (0, 0.0))

    def of_rows(self, table: Table, rows: int) -> NDArray[np.int16]:
        """The slices of rows, [rows, columns]; NO_SLICE where the value is not watched."""
        found = np.full((rows, len(self._columns)), NO_SLICE, np.int16)
        for place, (column, values) in enumerate(self._columns.items()):
            if column in table:
                look_up = values.get
                found[:, place] = [look_up(value, NO_SLICE) for value in table[column].tolist()]
        return found

    def add_rows(self, groups: NDArray[np.int16]) -> None:
        """Count rows by their slices [rows, columns]."""
        for code, rows in zip(*np.unique(groups, return_counts=True), strict=True):
            if int(code) in self._rows:
                self._rows[int(code)] += int(rows)

    def add_losses(
        self, groups: NDArray[np.int16], losses: NDArray[np.float64], event_s: NDArray[np.float64]
    ) -> None:
        """Fold losses [labels] of predictions made at `event_s`, by slices [labels, columns]."""
        for code in np.unique(groups).tolist():
            if code not in self._sums:
                continue
            mine = (groups == code).any(1)
            labels, loss = self._sums[code]
            self._sums[code] = (labels + int(mine.sum()), loss + float(losses[mine].sum()))
            self._detectors[code].add(losses[mine], event_s[mine])

    def told(self) -> tuple[SliceLoss, ...]:
        """How the champion does on each, in the order of columns and of how frequent they are."""
        return tuple(
            SliceLoss(
                slice=name,
                rows=self._rows[code],
                labels=self._sums[code][0],
                loss=self._sums[code][1] / self._sums[code][0] if self._sums[code][0] else None,
                baseline=self.baselines[code][0],
                log_evidence=self._detectors[code].log_evidence,
            )
            for code, name in self._names.items()
        )

    def alarms(self) -> Iterator[Alarm]:
        """Of slices whose loss rose."""
        for code, name in self._names.items():
            detector = self._detectors[code]
            if (change := detector.change) is not None:
                yield loss_alarm(
                    change,
                    self.baselines[code][0],
                    detector.bound,
                    version=self._version,
                    log_evidence=detector.log_evidence,
                    slice_=name,
                )

    def to_json(self) -> dict[str, Any]:
        return {
            str(code): [
                self.baselines[code],
                self._rows[code],
                self._sums[code],
                self._detectors[code].to_json(),
            ]
            for code in self._names
        }

    @staticmethod
    def from_json(view: View, codes: SliceCodes, raw: Mapping[str, Any]) -> "Slices":
        """What `to_json` wrote for the same version."""
        before = Slices(view, codes)
        before.baselines = {int(code): (held[0][0], held[0][1]) for code, held in raw.items()}
        found = Slices(view, codes, before)
        for text, (_, rows, sums, detector) in raw.items():
            code = int(text)
            found._rows[code], found._sums[code] = rows, (sums[0], sums[1])
            found._detectors[code].restore(detector)
        return found
