"""Alerts and housekeeping of a pool: a fixed number of threads, however many models there are.

What a lone controller does for its model in threads of its own is done here for all in turn. As
there, decisions wait for none of it, and a sink that is down keeps only its own notices waiting.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx

from hapredict.control.alerting import Alerting, name_of
from hapredict.control.ray_alerts import ANSWER_S, BATCH_MAX, REMIND_S, deliver, pause_s
from hapredict.control.ray_housekeeping import TIDY_S
from hapredict.errors import HapredictError
from hapredict.monitoring.compact import Compactor
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.store import Store
from hapredict.sections_alerts import SinkSpec
from hapredict.serving.pool import Rota
from hapredict.spec import Spec

LOOK_S = 1.0
"""Seconds between two looks at a model with alerts on their way, and between two at a sink."""
QUIET_S = 5.0
"""Longest pause between two looks at a model without, unless there are too many."""
LOOK_SHARE = 0.1
"""Share of the time that looking for alerts may take, with its waits for the store."""
SENDERS = 4
"""Threads that send. Each sink is sent to by one at a time, so that sinks which hang, up to so
many less one, delay no other."""

log = logging.getLogger(__name__)


class Led(Protocol):
    """A model of the pool; none of this waits."""

    @property
    def spec(self) -> Spec | None:
        """What was applied, as seen last."""

    @property
    def report(self) -> MonitorReport | None:
        """What the monitor said last."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one to act for it."""


Models = Callable[[], Mapping[str, Led]]


def _specs(models: Models) -> dict[str, tuple[Spec, Led]]:
    found = {}
    for name, led in models().items():
        spec = led.spec
        if led.leads and spec is not None:
            found[name] = spec, led
    return found


class _Post:
    """What is known of one sink, by the thread that sends to it."""

    def __init__(self) -> None:
        self.models: tuple[str, ...] = ()
        self.failures = 0
        self.reminded_s = time.monotonic()


class PoolTeller:
    """Tells the alerts of a pool's models to the sinks of their specs."""

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models
        self._rota = Rota(LOOK_S, quiet_s=QUIET_S, share=LOOK_SHARE)
        self._turns = threading.Lock()
        self._told: dict[str, tuple[Spec, Led]] = {}
        self._alerting: dict[str, Alerting] = {}
        self._posts: dict[SinkSpec, _Post] = {}
        self._queue: list[tuple[float, int, SinkSpec, _Post]] = []
        self._queued = 0
        self._troubles: dict[str, dict[str, str]] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin, in threads of its own."""
        threading.Thread(target=self._look, name="alerts", daemon=True).start()
        for number in range(SENDERS):
            threading.Thread(target=self._send, name=f"alerts {number}", daemon=True).start()

    def stop(self) -> None:
        """End the threads, at their next look."""
        self._stop.set()

    def status(self, model: str) -> dict[str, Any]:
        """What fires, what waits, and why a sink does not take it."""
        alerting = self._alerting.get(model)
        found = alerting.summary() if alerting is not None else {}
        return {**found, "trouble": dict(self._troubles.get(model, {}))}

    def wake(self, model: str) -> None:
        """Something happened to a model: look at once."""
        with self._turns:
            self._rota.wake(model, time.monotonic())

    def _look(self) -> None:
        learn_at_s = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() >= learn_at_s:
                    self._learn()
                    learn_at_s = time.monotonic() + LOOK_S
                self._look_at_next()
            except Exception:  # alerts must not end with one that cannot be told
                log.exception("alerts of a pool go on after a failure")
                self._stop.wait(LOOK_S)

    def _learn(self) -> None:
        """Take up which models have sinks, and which sinks there are."""
        told = {
            name: (spec, led)
            for name, (spec, led) in _specs(self._models).items()
            if spec.alerts.sinks
        }
        for name in self._alerting.keys() - told.keys():
            del self._alerting[name]
            self._troubles.pop(name, None)
        sinks: dict[SinkSpec, list[str]] = {}
        for name, (spec, _) in told.items():
            for sink in spec.alerts.sinks:
                sinks.setdefault(sink, []).append(name)
        now_s = time.monotonic()
        with self._turns:
            self._told = told
            self._rota.follow(told, now_s)
            for sink in self._posts.keys() - sinks.keys():
                del self._posts[sink]
            for sink, names in sinks.items():
                if sink not in self._posts:
                    self._posts[sink] = _Post()
                    self._put(sink, self._posts[sink], now_s)
                self._posts[sink].models = tuple(names)

    def _look_at_next(self) -> None:
        began_s = time.monotonic()
        with self._turns:
            name = self._rota.take(began_s)
            wait_s = self._rota.wait_s(began_s)
        if name is None:
            self._stop.wait(wait_s)
            return
        spec, led = self._told[name]
        troubles, news = self._troubles.setdefault(name, {}), False
        try:
            alerting = self._alerting.get(name)
            if alerting is None:
                alerting = self._alerting[name] = Alerting(self._store, name)
            alerting.look(spec.alerts, led.report, time.time())
            news = any(alerting.waiting(name_of(sink)) for sink in spec.alerts.sinks)
            troubles.pop("store", None)
            troubles.pop("alerts", None)
        except HapredictError as error:
            troubles["store"] = str(error)
        except Exception as error:
            if troubles.get("alerts") != str(error):
                log.exception("alerts of %s go on after a failure", name)
            troubles["alerts"] = str(error)
        finally:
            ended_s = time.monotonic()
            with self._turns:
                self._rota.looked(name, ended_s, ended_s - began_s, news=news)

    def _put(self, sink: SinkSpec, post: _Post, at_s: float) -> None:
        self._queued += 1
        heapq.heappush(self._queue, (at_s, self._queued, sink, post))

    def _take(self) -> tuple[SinkSpec, _Post] | None:
        """A sink whose turn it is, for this thread alone until it is put back."""
        with self._turns:
            while self._queue and self._queue[0][0] <= time.monotonic():
                _, _, sink, post = heapq.heappop(self._queue)
                if self._posts.get(sink) is post:  # not one that left, and came back anew
                    return sink, post
        return None

    def _send(self) -> None:
        with httpx.Client(timeout=ANSWER_S, trust_env=False, follow_redirects=False) as client:
            while not self._stop.is_set():
                taken = self._take()
                if taken is None:
                    self._stop.wait(LOOK_S / SENDERS)
                    continue
                sink, post = taken
                self._send_to(client, sink, post)
                at_s = time.monotonic() + max(LOOK_S, pause_s(post.failures))
                with self._turns:
                    self._put(sink, post, at_s)

    def _send_to(self, client: httpx.Client, sink: SinkSpec, post: _Post) -> None:
        """Send what waits for a sink, of one model after the other, until it fails."""
        name, models = name_of(sink), post.models
        due = sink.alertmanager is not None and time.monotonic() - post.reminded_s > REMIND_S
        if due:
            post.reminded_s = time.monotonic()
        # another one begins after each failure: what a sink refuses of one must not stop the others
        turn = post.failures % len(models) if models else 0
        for model in (*models[turn:], *models[:turn]):
            alerting = self._alerting.get(model)
            notices = alerting.waiting(name)[:BATCH_MAX] if alerting is not None else ()
            said = notices or (alerting.firing() if due and alerting is not None else ())
            if alerting is None or not said:
                continue
            troubles = self._troubles.setdefault(model, {})
            try:
                deliver(client, sink, said, time.time())
            except Exception as error:  # whatever a sink does, it only delays itself
                post.failures += 1
                troubles[name] = f"{type(error).__name__}: {error}"
                return
            troubles.pop(name, None)
            alerting.taken(name, notices)
        post.failures = 0


class PoolHousekeeper:
    """Keeps the journals of a pool's models short: one thread, one batch of a model at a turn."""

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models
        self._next_s: dict[str, float] = {}
        self._tidy_s: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._work, name="housekeeping", daemon=True).start()

    def stop(self) -> None:
        """End after the turn in progress."""
        self._stop.set()

    def status(self, model: str) -> str:
        """Why a model's last turn failed; "well" if it did not."""
        return self._troubles.get(model, "well")

    def _work(self) -> None:
        rest_s = LOOK_S
        while not self._stop.wait(rest_s):
            began_s = time.monotonic()
            try:
                found = self._due(began_s)
                if found is None:
                    rest_s = LOOK_S
                    continue
                self._turn(*found)
            except Exception:  # the journals may grow, and control must not end
                log.exception("housekeeping of a pool goes on after a failure")
            rest_s = max(0.001, time.monotonic() - began_s)  # half the time is for others

    def _due(self, now_s: float) -> tuple[str, Spec] | None:
        """The model that is overdue for longest."""
        led = _specs(self._models)
        for name in self._next_s.keys() - led.keys():
            del self._next_s[name], self._tidy_s[name]
            self._troubles.pop(name, None)
        for name in led.keys() - self._next_s.keys():
            # the first minutes belong to whoever was waiting for a controller
            at_s = now_s + led[name][0].monitoring.compact_s
            self._next_s[name] = self._tidy_s[name] = at_s
        name = min(self._next_s, key=lambda name: self._next_s[name], default="")
        return (name, led[name][0]) if name and self._next_s[name] <= now_s else None

    def _turn(self, name: str, spec: Spec) -> None:
        rules, full = spec.monitoring, False
        try:
            compactor = Compactor(self._store, name)
            full = compactor.move(rules.inference_share, spec.data.id).full
            if not full:
                compactor.clear()
            if not full and time.monotonic() >= self._tidy_s[name]:
                self._tidy_s[name] = time.monotonic() + TIDY_S
                compactor.tidy(time.time(), rules.retention_days)
            self._troubles.pop(name, None)
        except HapredictError as error:
            self._troubles[name] = str(error)
        except Exception as error:
            if self._troubles.get(name) != str(error):
                log.exception("housekeeping of %s goes on after a failure", name)
            self._troubles[name] = str(error)
        self._next_s[name] = time.monotonic() + (0.0 if full else rules.compact_s)
