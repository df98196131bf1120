"""What comes in, whichever champion answers: rows that do not fit, and labels that take their time.

It is set up by the rules of the first champion and outlives it: a new model changes neither what
callers send nor how long the truth takes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hapredict.monitoring.delays import WINDOWS, LabelDelays
from hapredict.monitoring.labels import Joined
from hapredict.monitoring.refusals import Refusals
from hapredict.monitoring.report import Alarm
from hapredict.sections import DAY_S
from hapredict.sections_live import MonitoringSpec


class Upstream:
    """Delays of labels and refusals of rows, of one model."""

    def __init__(self, delays: LabelDelays, refusals: Refusals) -> None:
        self._delays = delays
        self._refusals = refusals

    @staticmethod
    def of(rules: MonitoringSpec, begin_s: float) -> "Upstream":
        """Nothing seen yet; `begin_s` is the time of the first row."""
        unit_s, level = rules.window_days * DAY_S, rules.false_alarm_windows
        return Upstream(
            LabelDelays(
                begin_s=begin_s,
                unit_s=unit_s,
                delay_max_s=rules.label_delay_max_days * DAY_S,
                tolerance=rules.label_delay_tolerance,
                level=level / WINDOWS,
            ),
            Refusals(
                begin_s=begin_s,
                window_rows=rules.window_rows,
                unit_s=unit_s,
                tolerance=rules.rate_tolerance,
                level=level,
            ),
        )

    def add_rows(self, answered: int, refused: Mapping[str, int], watermark_s: float) -> None:
        """Rows of one part, refused ones by reason."""
        self._delays.advance(watermark_s)
        self._refusals.add(answered, refused, watermark_s)

    def add_labels(self, joined: Joined, late: int, watermark_s: float) -> None:
        """Labels that met their rows, and how many did so too late."""
        if late or len(joined.delay_s):
            known_s = (joined.event_s + joined.delay_s).max(initial=watermark_s)
            self._delays.add(joined.delay_s, float(known_s), late)

    def delay_days(self, share: float) -> float | None:
        """Within how many days so many of the labels came; None before enough came."""
        delay_s = self._delays.quantile_s(share)
        return None if delay_s is None else delay_s / DAY_S

    def alarms(self) -> Iterator[Alarm]:
        """Those that stand."""
        yield from self._delays.alarms
        yield from self._refusals.alarms()

    def to_json(self) -> dict[str, Any]:
        return {"delays": self._delays.to_json(), "refusals": self._refusals.to_json()}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Upstream":
        """What `to_json` wrote."""
        return Upstream(LabelDelays.from_json(raw["delays"]), Refusals.from_json(raw["refusals"]))
