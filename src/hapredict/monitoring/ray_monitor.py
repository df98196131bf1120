"""The monitor as a Ray actor: one a model, found by name, restarted by Ray wherever it dies.

It keeps nothing that cannot be rebuilt: its state is a snapshot in the store plus the parts of the
journal that the snapshot does not know. A second monitor of the same model, as after a network
split, does no harm: both fold the same parts, and either's snapshot is a true one.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from hapredict.errors import NotFound, TemporaryError
from hapredict.monitoring.follow import Follower
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.store import open_store

log = logging.getLogger(__name__)

NAMESPACE = "hapredict"

POLL_S = 1.0
"""Pause between two looks at the store."""
SNAPSHOT_S = 60.0
"""Pause between two snapshots."""

PARTS_PER_STEP = 1000
PARTS_PER_SNAPSHOT = 2000
SNAPSHOT_TIME_SHARE = 0.05
LOOK_TIME_SHARE = 0.1
_PAUSE_MAX_S = 30.0
LONG_PATIENCE_S = 60.0
_CALLS_MAX = 32


def monitor_name(model: str) -> str:
    """The name of a model's monitor among Ray's actors."""
    return f"hapredict:{model}:monitor"


class MonitorActor:
    """Follows one model's journal in a thread of its own; its methods only look.

    It looks every `poll_s` seconds, or less often where a look takes long. A snapshot is written
    every `snapshot_s` seconds or 2000 parts while there is news, or less often where that would
    take more than 5 % of the time. Trouble with the store never ends the actor: it tells in the
    report's `detail` and tries again.
    """

    def __init__(
        self, model: str, store_url: str, poll_s: float = POLL_S, snapshot_s: float = SNAPSHOT_S
    ) -> None:
        self._model = model
        self._store_url = store_url
        self._poll_s = poll_s
        self._snapshot_s = snapshot_s
        self._report = MonitorReport(model=model, detail="it has not read the store yet")
        self._news = threading.Condition()
        self._wake = threading.Event()
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def report(self) -> dict[str, Any]:
        """What is known, as JSON; `MonitorReport.from_json` reads it."""
        return self._report.to_json()

    def folded(
        self, positions: Mapping[str, Mapping[str, int]], timeout_s: float = LONG_PATIENCE_S
    ) -> bool:
        """Wait until these parts are folded ({"predictions": {source: seq}, "labels": ...}).

        False if that took longer than `timeout_s`.
        """
        self._wake.set()
        with self._news:
            return self._news.wait_for(lambda: reached(self._report, positions), timeout_s)

    def ping(self) -> int:
        """The process's id: it answers, so the actor lives."""
        return os.getpid()

    def _follow(self) -> None:
        follower: Follower | None = None
        save_at_s = time.monotonic() + self._snapshot_s
        look_at_s = 0.0
        told, woken, seen = "", True, 0
        while True:
            folded, trouble, pause_s = 0, "", self._poll_s
            try:
                if follower is None:
                    follower = Follower(open_store(self._store_url), self._model)
                began_s = time.monotonic()
                folded = follower.step(PARTS_PER_STEP, everywhere=woken)
                now_s = time.monotonic()
                if not folded:
                    # a long journal takes long to list: looking in vain must not fill the time
                    pause_s = max(pause_s, (now_s - began_s) / LOOK_TIME_SHARE)
                if now_s >= look_at_s:
                    follower.look()
                    took_s, now_s = time.monotonic() - now_s, time.monotonic()
                    look_at_s = now_s + took_s / LOOK_TIME_SHARE
                if follower.unsaved and (
                    now_s >= save_at_s or follower.unsaved >= PARTS_PER_SNAPSHOT
                ):
                    follower.save()
                    took_s = time.monotonic() - now_s
                    save_at_s = now_s + max(self._snapshot_s, took_s / SNAPSHOT_TIME_SHARE)
            except TemporaryError as error:
                trouble = str(error)
            except Exception as error:
                # whatever it is, the other parts and the next version may still be fine
                trouble = f"{type(error).__name__}: {error}"
                if trouble != told:  # not at every look
                    log.exception("the monitor of %s goes on after an error", self._model)
            changes = follower.changes if follower else 0
            if woken or trouble != told or changes != seen:
                self._publish(follower, trouble)
            told, seen = trouble, changes
            if folded < PARTS_PER_STEP:
                woken = self._wake.wait(min(pause_s, _PAUSE_MAX_S))
                self._wake.clear()

    def _publish(self, follower: Follower | None, trouble: str) -> None:
        report, details = self._report, [trouble]
        if follower is not None:
            details.append(follower.detail)
            try:
                report = follower.monitor.report()
            except Exception as error:  # an old report that says why is better than no monitor
                details.append(f"{type(error).__name__}: {error}")
        with self._news:
            self._report = replace(report, detail="; ".join(filter(None, details)))
            self._news.notify_all()


def start_monitor(
    model: str, store_url: str, *, poll_s: float = POLL_S, snapshot_s: float = SNAPSHOT_S
) -> Any:
    """A handle to the model's monitor, which is started if none runs.

    It outlives its starter, and Ray restarts it as often as it dies. `poll_s` is the pause between
    two looks at the store, `snapshot_s` the time between two snapshots.
    """
    # the actor runs in another folder, where a relative path would mean another store
    url = open_store(store_url).url
    options = monitor_options(monitor_name(model))
    return ray.remote(MonitorActor).options(**options).remote(model, url, poll_s, snapshot_s)


def monitor_options(name: str) -> dict[str, Any]:
    """How Ray keeps a monitor of that name: for good, wherever there is room, one of it."""
    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 3,
        "max_concurrency": _CALLS_MAX,
        "num_cpus": 0,
    }


def find_monitor(model: str) -> Any:
    """A handle to the model's monitor. Raises NotFound if none runs."""
    try:
        return ray.get_actor(monitor_name(model), namespace=NAMESPACE)
    except ValueError:
        message = f"no monitor runs for model {model!r}; `hapredict apply` starts it"
        raise NotFound(message) from None


def stop_monitor(model: str) -> None:
    """End the model's monitor for good; its state stays in the store. No error if none runs."""
    try:
        monitor = find_monitor(model)
    except NotFound:
        return
    ray.kill(monitor, no_restart=True)


def reached(report: MonitorReport, wanted: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether these parts are in a report ({"predictions": {source: seq}, "labels": ...})."""
    return all(
        report.positions.get(kind, {}).get(source, 0) >= seq
        for kind, seqs in wanted.items()
        for source, seq in seqs.items()
    )
