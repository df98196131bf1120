"""The parts of `control` that limit it: when nothing may change, what asks for a training, and
which signs of a broken model need no statistics.
"""

from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from hapredict.sections import DAY_S, Section

WEEK_S = 7 * DAY_S
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONDAY_S = 4 * DAY_S
"""Midnight of a Monday, 1970-01-05."""


def _text(value: Any) -> Any:
    """What YAML took for a date, as text again."""
    return value.isoformat() if isinstance(value, date) else value


class FreezeWindow(Section):
    """A stretch in which nothing is trained and nothing promoted; a rollback is always allowed."""

    model_config = ConfigDict(serialize_by_alias=True)

    begin: Annotated[str, BeforeValidator(_text)] = Field(alias="from")
    """`Fri 18:00` for each week, or `2026-12-20T18:00` for once; UTC unless it says otherwise."""
    until: Annotated[str, BeforeValidator(_text)]
    """The end, in the same form; the window does not hold any more at this moment."""

    @model_validator(mode="after")
    def _check(self) -> "FreezeWindow":
        begin, until = _read(self.begin), _read(self.until)
        if begin[0] != until[0]:
            message = (
                f"from {self.begin!r} until {self.until!r} mixes a day of the week with a date; "
                "write both as 'Fri 18:00', or both as '2026-12-20T18:00'"
            )
            raise ValueError(message)
        if begin[1] == until[1] or (not begin[0] and until[1] < begin[1]):
            message = f"from {self.begin!r} until {self.until!r} ends before it begins"
            raise ValueError(message)
        return self

    def holds_at(self, moment_s: float) -> bool:
        """Whether a moment, in seconds since the epoch, lies inside."""
        weekly, begin_s = _read(self.begin)
        _, until_s = _read(self.until)
        if not weekly:
            return begin_s <= moment_s < until_s
        into_s = (moment_s - _MONDAY_S) % WEEK_S
        if begin_s < until_s:
            return begin_s <= into_s < until_s
        return into_s >= begin_s or into_s < until_s

    def __str__(self) -> str:
        return f"{self.begin} to {self.until}"


def _read(text: str) -> tuple[bool, float]:
    """Whether it recurs each week; and the seconds since the epoch, or into the week."""
    words = text.split()
    if words and words[0].lower()[:3] in _DAYS and words[0].isalpha():
        hours, colon, minutes = (words[1] if len(words) == 2 else "").partition(":")
        right = colon and hours.isdecimal() and minutes.isdecimal()
        if not right or int(hours) > 24 or int(minutes) > 59:
            raise ValueError(f"{text!r} is no time of the week; write it as 'Fri 18:00'")
        day = _DAYS.index(words[0].lower()[:3])
        return True, (day * DAY_S + int(hours) * 3600 + int(minutes) * 60) % WEEK_S
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no moment; write '2026-12-20T18:00', or 'Fri 18:00' for each week"
        ) from None
    return False, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class TriggersSpec(Section):
    """What asks for a training, besides age and a risen loss."""

    importance_min: float = Field(default=0.05, ge=0, le=1)
    """Share in what the scores hang on that a feature must have for its drift to count."""
    drift_days_min: float = Field(default=3, ge=0)
    """Days that drift of a feature or of the scores must last to count."""
    volume_share: float = Field(default=0.5, gt=0)
    """New labelled rows, as a share of the champion's training rows, that ask for a training."""


class GuardsSpec(Section):
    """Signs of a broken model that end its trial, or its reign, at once."""

    faults_min: int = Field(default=5, ge=1)
    """Failures to score (an error, or a score that is not a number) that are no coincidence."""
    fault_share_max: float = Field(default=0.01, ge=0, le=1)
    """Share of failures beyond that of the other version, above which a version is broken."""
    constant_rows: int = Field(default=200, ge=2)
    """Rows with one and the same score, where the other version tells them apart, after which a
    version is broken."""
    latency_ratio_max: float = Field(default=3, gt=1)
    """How many times as long as the other version it may take for the same rows."""
    latency_free_ms: float = Field(default=5, ge=0)
    """Milliseconds for 16 rows that nobody minds, whatever the ratio."""
