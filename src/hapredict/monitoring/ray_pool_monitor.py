"""The monitor of a pool: one actor that follows the journals of all its models in turn.

Models with news are looked at as often as a monitor of their own would; quiet ones less and less
often, for a look in vain costs as much as any. As with a lone monitor, what it knows can be rebuilt
from the store, and a second one does no harm.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from hapredict.errors import HapredictError, NotFound, TemporaryError
from hapredict.monitoring.follow import Follower
from hapredict.monitoring.ray_monitor import (
    LONG_PATIENCE_S,
    LOOK_TIME_SHARE,
    NAMESPACE,
    PARTS_PER_SNAPSHOT,
    PARTS_PER_STEP,
    POLL_S,
    SNAPSHOT_S,
    SNAPSHOT_TIME_SHARE,
    find_monitor,
    monitor_options,
    reached,
)
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.store import Store, open_store
from hapredict.serving.members import members
from hapredict.serving.pool import Rota

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""Longest pause between two looks at a model without news."""
LOOK_SHARE = 0.05
"""Share of a processor that looking in vain may take."""
EVERYWHERE_S = 64.0
"""Seconds between two looks at sources without news: as long as a lone monitor leaves them out."""
NAMES_S = 5.0


class OfModel:
    """One model's part of an actor for several: each method is called with the model's name."""

    def __init__(self, actor: Any, model: str) -> None:
        self._actor = actor
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._actor, name), self._model)


class _Method:
    def __init__(self, method: Any, model: str) -> None:
        self._method = method
        self._model = model

    def remote(self, *values: Any, **named: Any) -> Any:
        return self._method.remote(self._model, *values, **named)


class Watched:
    """One model of a pool, as its monitor knows it. For one thread."""

    def __init__(self, model: str, snapshot_s: float) -> None:
        self.model = model
        self.report = MonitorReport(model=model, detail="it has not read the store yet")
        self._snapshot_s = snapshot_s
        self._save_at_s = time.monotonic() + snapshot_s
        self._look_at_s = self._everywhere_at_s = 0.0
        self._follower: Follower | None = None
        self._changes = 0
        self._told: str | None = None

    def look(self, store: Store, *, woken: bool) -> bool:
        """Fold what is new, and save it now and then; whether there was anything new.

        `woken` says that somebody waits: sources that are quiet for long are looked at too.
        """
        trouble, everywhere = "", woken or time.monotonic() >= self._everywhere_at_s
        try:
            if self._follower is None:
                self._follower = Follower(store, self.model)
            self._follower.step(PARTS_PER_STEP, everywhere=everywhere)
            if everywhere:
                self._everywhere_at_s = time.monotonic() + EVERYWHERE_S
            self._look_for_rows()
            self._save()
        except TemporaryError as error:
            trouble = str(error)
        except Exception as error:
            # whatever it is, the other models are still to be followed
            trouble = f"{type(error).__name__}: {error}"
            if trouble != self._told:
                log.exception("the monitor of %s goes on after an error", self.model)
        before, self._told = self._told, trouble
        changes = self._follower.changes if self._follower is not None else 0
        news = changes != self._changes or trouble != before
        self._changes = changes
        if news or woken:
            self._publish(trouble)
        return news

    def _look_for_rows(self) -> None:
        follower, now_s = self._follower, time.monotonic()
        if follower is not None and now_s >= self._look_at_s:
            follower.look()
            ended_s = time.monotonic()
            self._look_at_s = ended_s + (ended_s - now_s) / LOOK_TIME_SHARE

    def _save(self) -> None:
        follower, now_s = self._follower, time.monotonic()
        if follower is None or not follower.unsaved:
            return
        if now_s >= self._save_at_s or follower.unsaved >= PARTS_PER_SNAPSHOT:
            follower.save()
            took_s = time.monotonic() - now_s
            self._save_at_s = now_s + max(self._snapshot_s, took_s / SNAPSHOT_TIME_SHARE)

    def _publish(self, trouble: str) -> None:
        report, details = self.report, [trouble]
        if self._follower is not None:
            details.append(self._follower.detail)
            try:
                report = self._follower.monitor.report()
            except Exception as error:  # an old report that says why is better than none
                details.append(f"{type(error).__name__}: {error}")
        self.report = replace(report, detail="; ".join(filter(None, details)))


class PoolMonitorActor:
    """Follows all models of a pool in a thread of its own; its methods only look."""

    def __init__(
        self, pool: str, store_url: str, poll_s: float = POLL_S, snapshot_s: float = SNAPSHOT_S
    ) -> None:
        self._pool = pool
        self._store = open_store(store_url)
        self._snapshot_s = snapshot_s
        self._watched: dict[str, Watched] = {}
        self._rota = Rota(poll_s, quiet_s=QUIET_S, share=LOOK_SHARE)
        self._turns = threading.Lock()
        self._woken: set[str] = set()
        self._news = threading.Condition()
        self._wake = threading.Event()
        self._changes: dict[str, int] = {}
        self._change = 0
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def report(self, model: str) -> dict[str, Any]:
        """What is known of a model, as JSON; `MonitorReport.from_json` reads it."""
        found = self._watched.get(model)
        if found is None:
            self._hurry(model)
            return MonitorReport(model=model, detail="it has not read the store yet").to_json()
        return found.report.to_json()

    def changed(self, since: int) -> tuple[int, list[str]]:
        """The models with news after `since`, and what to ask with next time (0 at first)."""
        with self._news:
            return self._change, [m for m, at in self._changes.items() if at > since]

    def folded(
        self,
        model: str,
        positions: Mapping[str, Mapping[str, int]],
        timeout_s: float = LONG_PATIENCE_S,
    ) -> bool:
        """Wait until these parts of a model are folded; False if that took longer."""
        self._hurry(model)

        def there() -> bool:
            found = self._watched.get(model)
            return found is not None and reached(found.report, positions)

        with self._news:
            return self._news.wait_for(there, timeout_s)

    def ping(self, _model: str = "") -> int:
        """The process's id: it answers, so the actor lives."""
        return os.getpid()

    def rota(self) -> dict[str, float]:
        """How many models are followed, and how often the quiet ones are looked at."""
        with self._turns:
            return {
                "models": len(self._rota),
                "quiet_s": self._rota.quiet_s * self._rota.stretch,
            }

    def _hurry(self, model: str) -> None:
        with self._turns:
            self._woken.add(model)
            self._rota.wake(model, time.monotonic())
        self._wake.set()

    def _follow(self) -> None:
        names_at_s = 0.0
        while True:
            if time.monotonic() >= names_at_s:
                self._learn_names()
                names_at_s = time.monotonic() + NAMES_S
            self._look_at_next()

    def _learn_names(self) -> None:
        try:
            names = members(self._store, self._pool)
        except HapredictError as error:
            log.warning("the monitor of pool %s cannot list its models: %s", self._pool, error)
            return
        with self._turns:
            self._rota.follow(names, time.monotonic())
            self._woken.intersection_update(names)
        for name in self._watched.keys() - set(names):
            del self._watched[name]
        for name in names:
            if name not in self._watched:
                self._watched[name] = Watched(name, self._snapshot_s)

    def _look_at_next(self) -> None:
        with self._turns:
            name = self._rota.take(time.monotonic())
            wait_s = self._rota.wait_s(time.monotonic())
            woken = name in self._woken
            self._woken.discard(name or "")
        if name is None:
            self._wake.wait(wait_s)
            self._wake.clear()
            return
        began_s = time.monotonic()
        watched = self._watched[name]
        news = watched.look(self._store, woken=woken)
        ended_s = time.monotonic()
        with self._turns:
            self._rota.looked(name, ended_s, ended_s - began_s, news=news)
            if name in self._woken:  # by somebody who came during the look
                self._rota.wake(name, ended_s)
        if news:
            with self._news:
                self._change += 1
                self._changes[name] = self._change
                self._news.notify_all()


def pool_monitor_name(pool: str) -> str:
    """The name of a pool's monitor among Ray's actors."""
    return f"hapredict:pool:{pool}:monitor"


def start_pool_monitor(
    pool: str, store_url: str, *, poll_s: float = POLL_S, snapshot_s: float = SNAPSHOT_S
) -> Any:
    """A handle to the pool's monitor, which is started if none runs. See `start_monitor`."""
    url = open_store(store_url).url
    options = monitor_options(pool_monitor_name(pool))
    return ray.remote(PoolMonitorActor).options(**options).remote(pool, url, poll_s, snapshot_s)


def find_pool_monitor(pool: str) -> Any:
    """A handle to the pool's monitor. Raises NotFound if none runs."""
    try:
        return ray.get_actor(pool_monitor_name(pool), namespace=NAMESPACE)
    except ValueError:
        message = f"no monitor runs for pool {pool!r}; `hapredict apply` of a model starts it"
        raise NotFound(message) from None


def monitor_of(model: str, pool: str | None) -> Any:
    """A handle to who follows a model: its own monitor, or its pool's. Raises NotFound."""
    return find_monitor(model) if pool is None else OfModel(find_pool_monitor(pool), model)
