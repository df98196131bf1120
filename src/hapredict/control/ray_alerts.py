"""Alerts on their way out: a thread of the controller's process that looks, and one a sink.

It is the controller that tells, since only one at a time may: it holds the lease. Its decisions
wait for none of it: they are another thread, and whatever is asked of the store or of a sink here
is asked beside them. A sink that is down keeps its own notices waiting and nobody else's.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from hapredict.control.alerting import Alerting, name_of
from hapredict.errors import HapredictError
from hapredict.monitoring.alerts import (
    Notice,
    alertmanager_body,
    log_line,
    signature,
    webhook_body,
)
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.store import Store
from hapredict.sections_alerts import AlertsSpec, SinkSpec

LOOK_S = 1.0
SEND_S = 0.2
"""Seconds between two looks of a sink at what waits for it."""
BATCH_MAX = 50
"""Notices in one request."""
ANSWER_S = 10.0
PAUSE_MAX_S = 60.0
"""The longest pause after failures in a row; the first is a second."""
REMIND_S = 60.0
"""Alertmanager is told this often what still fires."""

log = logging.getLogger(__name__)


class Teller:
    """Tells one model's alerts to the sinks of its spec, while `leads()`."""

    def __init__(
        self,
        store: Store,
        model: str,
        alerts: Callable[[], AlertsSpec],
        report: Callable[[], MonitorReport | None],
        leads: Callable[[], bool],
    ) -> None:
        """`alerts` and `report` say what was applied and seen last; they must not wait."""
        self._store = store
        self._model = model
        self._alerts = alerts
        self._report = report
        self._leads = leads
        self._alerting: Alerting | None = None
        self._senders: dict[str, tuple[SinkSpec, object]] = {}
        self._troubles: dict[str, str] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin, in threads of its own."""
        threading.Thread(target=self._look, name="alerts", daemon=True).start()

    def stop(self) -> None:
        """End the threads, at their next look."""
        self._stop.set()

    def status(self) -> dict[str, Any]:
        """What fires, what waits, and why a sink does not take it."""
        alerting = self._alerting
        found = alerting.summary() if alerting is not None else {}
        return {**found, "trouble": dict(self._troubles)}

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                alerts = self._alerts()
                if not alerts.sinks or not self._leads():
                    self._alerting, self._senders = None, {}
                    continue
                if self._alerting is None:
                    self._alerting = Alerting(self._store, self._model)
                self._alerting.look(alerts, self._report(), time.time())
                self._troubles.pop("store", None)
                self._follow(alerts)
            except HapredictError as error:
                self._troubles["store"] = str(error)
            except Exception as error:  # alerts must not end with one that cannot be told
                if self._troubles.get("alerts") != str(error):
                    log.exception("alerts of %s go on after a failure", self._model)
                self._troubles["alerts"] = str(error)

    def _follow(self, alerts: AlertsSpec) -> None:
        """One thread for each sink of the spec; those of sinks that left end by themselves."""
        before, now = self._senders, dict[str, tuple[SinkSpec, object]]()
        fresh = []
        for sink in alerts.sinks:
            name = name_of(sink)
            held = before.get(name)
            if held is not None and held[0] == sink:
                now[name] = held
                continue
            token = object()  # of this thread alone: an earlier one of the sink may still pause
            now[name] = (sink, token)
            fresh.append((name, sink, token))
        self._senders = now
        for one in fresh:
            threading.Thread(
                target=self._send, args=one, name=f"alerts {one[0]}", daemon=True
            ).start()

    def _send(self, name: str, sink: SinkSpec, token: object) -> None:
        failures, reminded_s = 0, time.monotonic()
        with httpx.Client(timeout=ANSWER_S, trust_env=False, follow_redirects=False) as client:
            while not self._stop.wait(pause_s(failures)):
                held, alerting = self._senders.get(name), self._alerting
                if alerting is None or held is None or held[1] is not token:
                    return
                notices = alerting.waiting(name)[:BATCH_MAX]
                due = sink.alertmanager is not None and time.monotonic() - reminded_s > REMIND_S
                reminder = alerting.firing() if due and not notices else ()
                if due and not notices:
                    reminded_s = time.monotonic()
                if not notices and not reminder:
                    continue
                try:
                    deliver(client, sink, notices or reminder, time.time())
                except Exception as error:  # whatever a sink does, it only delays itself
                    failures += 1
                    self._troubles[name] = f"{type(error).__name__}: {error}"
                else:
                    failures = 0
                    self._troubles.pop(name, None)
                    alerting.taken(name, notices)


def deliver(
    client: httpx.Client, sink: SinkSpec, notices: tuple[Notice, ...], now_s: float
) -> None:
    """Hand notices to a sink. Raises whatever keeps it from having taken them."""
    if sink.log:
        for notice in notices:
            log.warning("%s", log_line(notice))
        return
    headers = {"Content-Type": "application/json"}
    if sink.alertmanager is not None:
        url = sink.alertmanager.rstrip("/") + "/api/v2/alerts"
        body = alertmanager_body(notices, now_s)
    else:
        url, body = sink.webhook or "", webhook_body(notices)
        headers["X-Hapredict-Timestamp"] = str(int(now_s))
        if sink.secret_env is not None:
            secret = os.environ.get(sink.secret_env)
            if not secret:
                message = f"the cluster's environment has no {sink.secret_env}"
                raise LookupError(message)
            headers["X-Hapredict-Signature"] = signature(secret, str(int(now_s)), body)
    answer = client.post(url, content=body, headers=headers)
    if not answer.is_success:  # httpx's own sentence would show the address, which may be a secret
        message = f"it answered {answer.status_code}"
        raise ConnectionError(message)


def pause_s(failures: int) -> float:
    """How long to leave a sink alone after so many failures in a row."""
    return min(PAUSE_MAX_S, 2.0 ** min(failures - 1, 30)) if failures else SEND_S
