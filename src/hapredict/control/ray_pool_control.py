"""The controller of a pool: one actor that leads all its models in turn.

Each model keeps terms and a catalog of its own, so that a controller which was silent can do no
harm to any of them. To beat a thousand leases would keep a disk busy; so there is one lease for the
pool, and who holds it may follow its predecessors on all models at once. Models with news, with a
training or with a challenger are looked at every two seconds; quiet ones less and less often.
"""

import logging
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import ray

from hapredict.control import runs
from hapredict.control.actions import Action, Hold
from hapredict.control.loop import step
from hapredict.control.ray_cluster import RayCluster, answer
from hapredict.control.ray_embedded import NAMESPACE
from hapredict.control.ray_learner import pool_learner
from hapredict.control.ray_pool_upkeep import PoolHousekeeper, PoolTeller
from hapredict.control.ray_spread import keep_apart
from hapredict.control.specs import read_spec
from hapredict.errors import (
    ClusterUnavailable,
    Conflict,
    HapredictError,
    LeaseLost,
    NotFound,
    TemporaryError,
)
from hapredict.monitoring.ray_pool_monitor import OfModel, start_pool_monitor
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.lease import Lease
from hapredict.registry.store import Store, open_store
from hapredict.serving.members import members
from hapredict.serving.pool import Rota
from hapredict.serving.ray_pool import deployed_settings
from hapredict.spec import Spec

TICK_S = 2.0
"""Seconds between two looks at a model with news, unless there are too many."""
QUIET_S = 30.0
"""Longest pause between two looks at a model without news."""
LOOK_SHARE = 0.25
"""Share of the time that looking may take, with its waits for the store; beyond it all pauses are
longer."""
NAMES_S = 5.0
LEASE_S = 30.0
"""For how long the pool's controller may be silent before another one follows."""
MODEL_LEASE_S = 600.0
"""For how long it may have been silent before somebody else leads one of the models."""

log = logging.getLogger(__name__)


class Led:
    """One model of a pool, led under a lease of its own. For one thread."""

    def __init__(self, store: Store, pool: str, owner: str, cluster: RayCluster) -> None:
        self.last: Action = Hold(reason="starting")
        self.term = 0
        self._beat_s = 0.0
        self._store = store
        self._pool = pool
        self._owner = owner
        self._cluster = cluster
        self._lease: Lease | None = None

    @property
    def spec(self) -> Spec | None:
        """What was applied, as seen last."""
        return self._cluster.known_spec

    @property
    def report(self) -> MonitorReport | None:
        """What the monitor said last."""
        return self._cluster.seen

    @property
    def leads(self) -> bool:
        """Whether this process is the one to act for the model."""
        return self.term > 0

    def look(self, now_s: float) -> bool:
        """Look once and do what follows; whether it should be looked at again soon.

        Only while the pool's lease is held. Raises ClusterUnavailable.
        """
        try:
            return self._look(now_s)
        except LeaseLost as error:
            self._lease, self.term = None, 0
            self.last = Hold(reason=str(error))
        except Conflict as error:
            self.last = Hold(reason=f"another writer was faster: {error}")
            return True
        except ClusterUnavailable as error:
            self.last = Hold(reason=str(error))
            raise
        except (TemporaryError, NotFound) as error:
            self.last = Hold(reason=str(error))
        return False

    def _look(self, now_s: float) -> bool:
        spec = self._cluster.spec()
        if spec.serving.pool != self._pool:
            self._let_go()
            self.last = Hold(reason="the model is in this pool no longer, and is led elsewhere")
            return False
        if self._lease is None or not self.term:
            model = self._cluster.model
            self._lease = self._lease or Lease(self._store, model, self._owner, MODEL_LEASE_S)
            self.term = self._lease.take(now_s, heir_of=_owners(self._pool)).number
            self._beat_s = now_s
        if now_s - self._beat_s >= MODEL_LEASE_S / 3:
            self._lease.beat(now_s)
            self._beat_s = now_s
        else:
            self._lease.check(now_s)
        self.last = step(self._cluster, self.term)
        if not isinstance(self.last, Hold):
            return True
        entry = self._cluster.latest()
        return entry is None or entry.state.stage != "steady" or bool(entry.state.training)

    def _let_go(self) -> None:
        if self._lease is not None and self.term:
            self._lease.release()
        self._lease, self.term = None, 0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=8)
class PoolController:
    """Decides for the models of a pool, each for as long as its lease holds."""

    def __init__(self, pool: str, store_url: str, home: str) -> None:
        # a restarted controller must not pass for its former self
        self._owner = f"{_owners(pool)}{secrets.token_hex(4)}"
        self._pool = pool
        self._store = open_store(store_url)
        self._lease = Lease(self._store, f"pool.{pool}", self._owner, LEASE_S)
        self._beat_s = 0.0
        self._home = Path(home)
        self._led: dict[str, Led] = {}
        self._rota = Rota(TICK_S, quiet_s=QUIET_S, share=LOOK_SHARE)
        self._turns = threading.Lock()
        self._wake = threading.Event()
        self._monitor: Any = None
        self._news = 0
        self._teller = PoolTeller(self._store, self._models)
        self._housekeeper = PoolHousekeeper(self._store, self._models)
        threading.Thread(target=self._work, daemon=True, name="control").start()
        self._teller.start()
        self._housekeeper.start()
        keep_apart(
            pool,
            lambda: deployed_settings(self._store, pool).num_cpus,
            lambda: self._lease.term is not None,
        )

    def status(self, model: str) -> dict[str, Any]:
        """Who controls a model, under which term, and what was done last and why."""
        led = self._led.get(model)
        last = led.last if led is not None else Hold(reason="it has not been looked at yet")
        return {
            "owner": self._owner,
            "pid": os.getpid(),
            "term": led.term if led is not None else 0,
            "action": type(last).__name__,
            "reason": last.reason,
            "alerts": self._teller.status(model),
            "housekeeping": self._housekeeper.status(model),
        }

    def hurry(self, model: str) -> None:
        """Look at a model at once, as something about it has changed."""
        self._learn_names()
        with self._turns:
            self._rota.wake(model, time.monotonic())
        self._wake.set()

    def rota(self) -> dict[str, float]:
        """How many models are led, and how often the quiet ones are looked at."""
        with self._turns:
            return {
                "models": len(self._rota),
                "quiet_s": self._rota.quiet_s * self._rota.stretch,
            }

    def _work(self) -> None:
        names_at_s = news_at_s = 0.0
        while True:
            try:
                self._hold()
                if time.monotonic() >= names_at_s:
                    self._learn_names()
                    names_at_s = time.monotonic() + NAMES_S
                if time.monotonic() >= news_at_s:
                    self._hear_news()
                    news_at_s = time.monotonic() + TICK_S
                self._look_at_next()
            except Exception as error:  # nothing that goes wrong may end control for good
                if not isinstance(error, HapredictError):
                    log.exception("control of pool %s goes on after a failure", self._pool)
                time.sleep(1)

    def _hold(self) -> None:
        """Hold the pool's lease. Raises Conflict while another controller does."""
        if time.monotonic() - self._beat_s < LEASE_S / 6:
            return
        try:
            if self._lease.term is None:
                self._lease.take(time.time())
            self._lease.beat(time.time())
        except LeaseLost:
            self._lease = Lease(self._store, f"pool.{self._pool}", self._owner, LEASE_S)
            with self._turns:
                self._led = {name: self._lead(name) for name in self._led}
            raise
        self._beat_s = time.monotonic()

    def _learn_names(self) -> None:
        names = members(self._store, self._pool)
        with self._turns:
            for name in self._led.keys() - set(names):
                del self._led[name]
            for name in names:
                if name not in self._led:
                    self._led[name] = self._lead(name)
            self._rota.follow(names, time.monotonic())

    def _models(self) -> dict[str, Led]:
        with self._turns:
            return dict(self._led)

    def _lead(self, model: str) -> Led:
        cluster = RayCluster(
            self._store,
            model,
            self._home,
            self._owner,
            find_monitor=lambda: OfModel(start_pool_monitor(self._pool, self._store.url), model),
            find_learner=lambda: OfModel(
                pool_learner(self._pool, self._store.url, self._home), model
            ),
        )
        return Led(self._store, self._pool, self._owner, cluster)

    def _hear_news(self) -> None:
        """Whom the monitor has news of, or somebody wishes to retrain, is looked at at once."""
        if self._monitor is None:
            self._monitor = start_pool_monitor(self._pool, self._store.url)
        monitor, self._monitor = self._monitor, None
        self._news, names = answer(monitor.changed.remote(self._news), "the monitor")
        self._monitor = monitor
        wished = runs.wished(self._store)
        with self._turns:
            for name in {*names, *wished}:
                self._rota.wake(name, time.monotonic())

    def _look_at_next(self) -> None:
        with self._turns:
            now_s = time.monotonic()
            name = self._rota.take(now_s)
            wait_s = self._rota.wait_s(now_s)
        if name is None:
            self._wake.wait(wait_s)
            self._wake.clear()
            return
        led, news = self._led.get(name), False
        try:
            news = led is not None and led.look(time.time())
        finally:
            ended_s = time.monotonic()
            with self._turns:
                self._rota.looked(name, ended_s, ended_s - now_s, news=news)
        if news:
            self._teller.wake(name)


def pool_controller(pool: str, store_url: str, home: Path) -> Any:
    """The controller of a pool, started if it does not run."""
    return PoolController.options(  # type: ignore[attr-defined]
        name=_name(pool), namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(pool, store_url, str(home))


def pool_of(store: Store, model: str) -> str | None:
    """The pool in which a model was applied last; None if it stands alone. Raises NotFound."""
    return read_spec(store, model).serving.pool


def controller_reason(store: Store, model: str) -> str:
    """What the controller of a model did last and why, or why nobody can say."""
    try:
        return str(controller_status(store, model)["reason"])
    except (ClusterUnavailable, NotFound) as error:
        return str(error)


def controller_status(store: Store, model: str) -> dict[str, Any]:
    """What the controller of a model says of it. Raises NotFound, ClusterUnavailable."""
    pool = pool_of(store, model)
    name = f"hapredict:{model}:controller" if pool is None else _name(pool)
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise NotFound(f"model {model!r} has no controller here; apply its spec first") from None
    who = actor if pool is None else OfModel(actor, model)
    status: dict[str, Any] = answer(who.status.remote(), "the controller")
    return status


def _owners(pool: str) -> str:
    """What the names of the pool's controllers begin with."""
    return f"pool.{pool}.controller-"


def _name(pool: str) -> str:
    return f"hapredict:pool:{pool}:controller"
