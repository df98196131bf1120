"""Who is told what, and what is still to be told: kept in the store, so that a restart loses none.

    alerts/<model>/state.json    what was told, and each sink's notices that it has not taken yet

A notice is in the state before anybody is sent it, and leaves it after a sink took it. So each sink
is told at least once; whoever is told twice, after a crash, sees the same id.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from hapredict.errors import CorruptBundle, NotFound
from hapredict.monitoring.alerts import (
    Book,
    Event,
    Notice,
    advance,
    alarms_of,
    events_of,
    risks_of,
    states_of,
)
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.sections_alerts import AlertsSpec, SinkSpec
from hapredict.serving.risk import risk_prefix

WAITING_MAX = 1000
"""Notices that wait for one sink. Of more the oldest are given up, and counted."""
FILES_MAX = 200
"""Files of warnings that are read at one look."""


def name_of(sink: SinkSpec) -> str:
    """Names a sink: its kind, its host, and a hash, since an address may be a secret."""
    if sink.log:
        return "log"
    url = sink.webhook or sink.alertmanager or ""
    kind = "webhook" if sink.webhook else "alertmanager"
    return f"{kind} {urlsplit(url).hostname} {sha256(url.encode()).hexdigest()[:8]}"


class Alerting:
    """One model's alerts. Safe to use from several threads, of which one looks."""

    def __init__(self, store: Store, model: str) -> None:
        """Goes on from the state in the store; one that is damaged counts as none.

        Raises StoreUnavailable.
        """
        self._store = store
        self._model = model
        self._catalog = Catalog(store, model)
        self._path = f"alerts/{model}/state.json"
        self._lock = threading.Lock()
        self._book = Book()
        self._sequence: int | None = None
        self._waiting: dict[str, list[Notice]] = {}
        self._lost: dict[str, int] = {}
        self._dirty = False
        self._hidden = False  # there are notices that the store does not know yet
        try:
            raw = decode_json(store.get(self._path), self._path)
        except (NotFound, CorruptBundle):
            return
        self._book = Book.from_json(raw["book"])
        self._sequence = raw["sequence"]
        self._lost = dict(raw["lost"])
        self._waiting = {
            name: [Notice.from_json(one) for one in notices]
            for name, notices in raw["waiting"].items()
        }

    def look(self, alerts: AlertsSpec, report: MonitorReport | None, now_s: float) -> None:
        """Find out what is new, and write it down. Raises StoreUnavailable; look again then.

        What was in the catalog before the first look is history and not told.
        """
        entry = self._catalog.latest()
        if entry is None:
            return
        if self._sequence is None:
            self._sequence, self._dirty = entry.sequence, True
        lasting = states_of(entry.state) + (alarms_of(report) if report is not None else [])
        if report is None:  # nobody knows whether they are over
            here = {"control_paused", "training_frozen"}
            lasting += [a for a in self._book.firing.values() if a.name not in here]
        events: list[Event] = []
        sequence = self._sequence
        if entry.sequence > sequence:
            for one in self._catalog.entries(sequence):
                events += events_of(one)
                sequence = one.sequence
        files = self._store.list(risk_prefix(self._model))[:FILES_MAX] if alerts.rules else []
        for path in files:
            with suppress(CorruptBundle):  # a damaged file must not stop those after it
                warnings = decode_json(self._store.get(path), path)["warnings"]
                events += risks_of(self._model, warnings)
        limits = {rule.name: rule.limit_per_hour for rule in alerts.rules}
        book, notices = advance(
            self._book, lasting, events, now_s, lambda n: limits.get(n, alerts.limit_per_hour)
        )
        names = [name_of(sink) for sink in alerts.sinks]
        with self._lock:
            changed = book != self._book or sequence != self._sequence
            self._dirty |= changed or set(self._waiting) != set(names)
            self._hidden |= bool(notices)
            waiting = {name: [*self._waiting.get(name, ()), *notices] for name in names}
            for name, several in waiting.items():
                if len(several) > WAITING_MAX:
                    gone = len(several) - WAITING_MAX
                    self._lost[name] = self._lost.get(name, 0) + gone
                    del several[:gone]
            self._book, self._sequence, self._waiting = book, sequence, waiting
        self.save()
        for path in files:  # what they say is in the state now
            self._store.delete(path)

    def save(self) -> None:
        """Write the state, if it changed. Raises StoreUnavailable."""
        with self._lock:
            if not self._dirty:
                return
            state, hidden = self._state(), self._hidden
            self._dirty = False
        try:
            self._store.put(self._path, encode_json(state))
        except BaseException:
            self._dirty = True
            raise
        if hidden:  # only the thread that saves adds any
            self._hidden = False

    def waiting(self, sink: str) -> tuple[Notice, ...]:
        """What a sink has not taken yet, oldest first; only what is in the store."""
        with self._lock:
            return () if self._hidden else tuple(self._waiting.get(sink, ()))

    def firing(self) -> tuple[Notice, ...]:
        """All lasting alerts that were told and are not over."""
        with self._lock:
            return tuple(Notice(alert, lasting=True) for alert in self._book.firing.values())

    def taken(self, sink: str, notices: Sequence[Notice]) -> None:
        """A sink took these."""
        ids = {notice.id for notice in notices}
        with self._lock:
            kept = [one for one in self._waiting.get(sink, ()) if one.id not in ids]
            self._waiting[sink] = kept
            self._dirty = True

    def summary(self) -> dict[str, Any]:
        """What `hapredict status` shows."""
        with self._lock:
            return {
                "firing": sorted(alert.summary for alert in self._book.firing.values()),
                "waiting": {name: len(notices) for name, notices in self._waiting.items()},
                "given_up": dict(self._lost),
                "held_back": dict(self._book.suppressed),
            }

    def _state(self) -> dict[str, Any]:
        return {
            "book": self._book.to_json(),
            "sequence": self._sequence,
            "lost": self._lost,
            "waiting": {
                name: [notice.to_json() for notice in notices]
                for name, notices in self._waiting.items()
            },
        }
