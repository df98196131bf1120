"""From what is known to what people are told: alerts, each told once, and again when it is over.

A lasting alert (an alarm, a pause) fires when it appears and is resolved when it is gone. An event
(a rollback, a risky prediction) fires once. Both are known by a fingerprint of what they are
about, which stays the same over restarts. No more than so many of one name are told in an hour;
what is held back is counted and told with the next.
"""

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from hapredict.monitoring.report import INCIDENTS, Alarm, MonitorReport
from hapredict.registry.catalog import CatalogState, Entry

HOUR_S = 3600.0
EVENT_S = 300.0
"""Seconds after which Alertmanager may call an event over."""
EVENTS_REMEMBERED = 10_000
"""Events whose repetition is noticed."""

Severity = Literal["info", "warning", "critical"]

_ACTIONS: Mapping[str, tuple[str, Severity]] = {
    "RollBack": ("rolled_back", "critical"),
    "Rollback": ("rolled_back", "critical"),
    "Abort": ("challenger_dropped", "warning"),
    "RejectRun": ("training_failed", "warning"),
    "Promote": ("promoted", "info"),
}
"""Entries of the catalog that people are told of."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell: its name and `about` say which, `summary` says it in a sentence."""

    name: str
    severity: Severity
    about: Mapping[str, str]
    summary: str
    since_s: float
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The same for the same thing, in any process and at any time."""
        text = json.dumps([self.name, sorted(self.about.items())], ensure_ascii=True)
        return sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a sink is sent: that an alert fires, or that it is over since `ended_s`."""

    alert: Alert
    ended_s: float | None = None
    lasting: bool = False
    suppressed: int = 0
    """Alerts of this name that were held back since the last one told."""

    @property
    def id(self) -> str:
        """Names the notice, so that whoever gets it twice can tell."""
        moment_s = self.alert.since_s if self.ended_s is None else self.ended_s
        state = "resolved" if self.ended_s is not None else "firing"
        return f"{self.alert.fingerprint}-{state}-{moment_s:.3f}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for the state."""
        return asdict(self)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Notice":
        """The notice that `to_json` wrote."""
        return Notice(**{**raw, "alert": Alert(**raw["alert"])})


@dataclass(frozen=True, slots=True)
class Book:
    """What was told, by fingerprint and by name."""

    firing: Mapping[str, Alert] = field(default_factory=dict)
    """Lasting alerts that were told and are not over."""
    events: tuple[str, ...] = ()
    """Fingerprints of events that were told, oldest first."""
    told_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By name: when something was told in the last hour."""
    suppressed: Mapping[str, int] = field(default_factory=dict)
    """By name: what was held back since something was told."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Book":
        """The book that `to_json` wrote."""
        return Book(
            firing={key: Alert(**alert) for key, alert in raw["firing"].items()},
            events=tuple(raw["events"]),
            told_s={name: tuple(moments) for name, moments in raw["told_s"].items()},
            suppressed=dict(raw["suppressed"]),
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `more` alike happened besides and are not told one by one."""

    alert: Alert
    more: int = 0


def alarms_of(report: MonitorReport) -> list[Alert]:
    """Lasting alerts: the monitor's alarms."""
    return [
        Alert(
            name=alarm.kind.replace(" ", "_"),
            severity=_severity(alarm),
            about={
                "model": report.model,
                "version": str(report.version),
                "feature": alarm.feature,
                "slice": alarm.slice,
            },
            summary=alarm.reason,
            since_s=alarm.at_s,
            details={"effect": alarm.effect, "harm": alarm.harm, "rank": alarm.rank},
        )
        for alarm in report.alarms
    ]


def _severity(alarm: Alarm) -> Severity:
    if alarm.harm == "worse" or alarm.kind in INCIDENTS:
        return "critical"
    return "info" if alarm.harm == "none" else "warning"


def states_of(state: CatalogState) -> list[Alert]:
    """Lasting alerts: control is paused, or may not train."""
    states = (("control_paused", state.paused), ("training_frozen", state.frozen))
    return [
        Alert(name, "warning", {"model": state.model}, reason, state.stage_since_s)
        for name, reason in states
        if reason
    ]


def events_of(entry: Entry) -> list[Event]:
    """Events: what an entry of the catalog did."""
    found = _ACTIONS.get(entry.action)
    if found is None:
        return []
    about = {"model": entry.state.model, "entry": str(entry.sequence)}
    return [Event(Alert(*found, about, entry.reason, entry.at_s))]


def risks_of(model: str, warnings: Sequence[Mapping[str, Any]]) -> list[Event]:
    """Events: predictions that rules warn of, as `serving.risk.warnings_of` wrote them."""
    found = []
    for warning in warnings:
        rows = warning["rows"]
        for place, row in enumerate(rows):
            about = {"model": model, "prediction_id": row["prediction_id"]}
            shown = ", ".join(f"{name}={value}" for name, value in row["fields"].items())
            summary = f"prediction {row['prediction_id']}: {shown}"
            details = dict(row["fields"])
            alert = Alert(warning["rule"], "warning", about, summary, row["at_s"], details)
            more = warning["matched"] - len(rows) if place == len(rows) - 1 else 0
            found.append(Event(alert, more))
    return found


def advance(
    book: Book,
    lasting: Sequence[Alert],
    events: Sequence[Event],
    now_s: float,
    limit_of: Callable[[str], int],
) -> tuple[Book, tuple[Notice, ...]]:
    """What is to be told now, and the book in which it is.

    A lasting alert for which there is no room in this hour waits for it; an event is counted
    instead. Ends are always told.
    """
    told = {
        name: kept
        for name, moments in book.told_s.items()
        if (kept := tuple(moment for moment in moments if moment > now_s - HOUR_S))
    }
    suppressed, firing = dict(book.suppressed), dict(book.firing)
    known = dict.fromkeys(book.events)
    notices: list[Notice] = []

    def tell(alert: Alert, *, is_lasting: bool) -> bool:
        if len(told.get(alert.name, ())) >= limit_of(alert.name):
            return False
        told[alert.name] = (*told.get(alert.name, ()), now_s)
        held_back = suppressed.pop(alert.name, 0)
        notices.append(Notice(alert, lasting=is_lasting, suppressed=held_back))
        return True

    now_there = {alert.fingerprint: alert for alert in lasting}
    over = [key for key in firing if key not in now_there]
    notices += [Notice(firing.pop(key), ended_s=now_s, lasting=True) for key in over]
    for key, alert in now_there.items():
        if key not in firing and tell(alert, is_lasting=True):
            firing[key] = alert
    for event in events:
        key = event.alert.fingerprint
        if key in known:
            continue
        known[key] = None
        held_back = event.more + (not tell(event.alert, is_lasting=False))
        if held_back:
            suppressed[event.alert.name] = suppressed.get(event.alert.name, 0) + held_back
    events_told = tuple(known)[-EVENTS_REMEMBERED:]
    return replace(
        book, firing=firing, events=events_told, told_s=told, suppressed=suppressed
    ), tuple(notices)


def webhook_body(notices: Sequence[Notice]) -> bytes:
    """What a webhook gets: `{"alerts": [...]}`."""
    return json.dumps({"alerts": [_webhook(notice) for notice in notices]}).encode()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of the timestamp, a dot and the body, as `sha256=` and hexadecimal digits."""
    signed = hmac.new(secret.encode(), timestamp.encode() + b"." + body, sha256)
    return f"sha256={signed.hexdigest()}"


def alertmanager_body(notices: Sequence[Notice], now_s: float) -> bytes:
    """What Alertmanager's `/api/v2/alerts` gets.

    A lasting alert ends by itself unless it is sent again within `EVENT_S`.
    """
    return json.dumps([_alertmanager(notice, now_s) for notice in notices]).encode()


def log_line(notice: Notice) -> str:
    """A notice as one line."""
    more = f" ({notice.suppressed} more were held back)" if notice.suppressed else ""
    state = "resolved" if notice.ended_s is not None else "firing"
    return f"alert {state}: {notice.alert.name}: {notice.alert.summary}{more}"


def _webhook(notice: Notice) -> dict[str, Any]:
    alert = notice.alert
    return {
        "id": notice.id,
        "fingerprint": alert.fingerprint,
        "name": alert.name,
        "state": "resolved" if notice.ended_s is not None else "firing",
        "severity": alert.severity,
        "labels": dict(alert.about),
        "summary": alert.summary,
        "details": dict(alert.details),
        "started_at": _moment(alert.since_s),
        "ended_at": None if notice.ended_s is None else _moment(notice.ended_s),
        "suppressed": notice.suppressed,
    }


def _alertmanager(notice: Notice, now_s: float) -> dict[str, Any]:
    alert = notice.alert
    ends_s = notice.ended_s
    if ends_s is None:
        ends_s = EVENT_S + (now_s if notice.lasting else max(now_s, alert.since_s))
    labels = {"alertname": alert.name, "severity": alert.severity, **alert.about}
    annotations = {"summary": alert.summary}
    if notice.suppressed:
        annotations["suppressed"] = str(notice.suppressed)
    annotations |= {name: str(value) for name, value in alert.details.items()}
    return {
        # an event clock may be ahead of the wall, and nothing may end before it starts
        "startsAt": _moment(min(alert.since_s, ends_s)),
        "endsAt": _moment(ends_s),
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": annotations,
    }


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
