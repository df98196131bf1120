"""The models of a pool in one process: one app each, and one upkeep for all.

A request goes to the app of the model that it names, which answers as if it were alone. Only what
a lone app does for itself is done here for all: following catalogs, spooling and shipping rows.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from threading import Lock

from hapredict.data.schema import Table
from hapredict.errors import HapredictError, NotFound, TemporaryError, UnknownName
from hapredict.registry.store import Store
from hapredict.serving.access import AccessLog
from hapredict.serving.asgi import App
from hapredict.serving.members import member_path, members, read_member
from hapredict.serving.pool import Rota
from hapredict.serving.recorder import Mark
from hapredict.serving.replica import Replica
from hapredict.serving.scaling import LoadMeter
from hapredict.serving.scoring import Answer
from hapredict.serving.tenancy import Tenancy
from hapredict.spec import Spec

REFRESH_SHARE = 0.05
"""Share of a processor that following catalogs may take; with many models loaded, each is looked
at less often."""
NAMES_S = 1.0
"""How old the list of names may be when an unknown one is asked for: unknown names, however many,
cost one look at the store in so long."""
NAMES_AGE_S = 10.0
"""How old it may be where nobody asks."""
SPEC_S = 2.0
"""Seconds between two looks at a loaded model's spec; its catalog is looked at more often."""
ADOPT_S = 30.0
"""Seconds between two looks for rows that dead processes left of models which nobody asks for."""
REPORT_S = 2.0
TICK_MAX_S = 0.5
RECORD_SHARE = 0.2
"""Share of the time that ticks may take, and reports. Each costs by the models that have rows, not
by rows: where many models have a few each, both come less often; ticks every TICK_MAX_S at least,
for what the spool lacks a killed process loses."""
TOLD_MAX = 20
_TENANT_BYTES = 100_000
_VERSION_BYTES = 250_000

log = logging.getLogger(__name__)

Direct = Callable[..., None]


class Tenant:
    """One loaded model."""

    def __init__(
        self,
        name: str,
        document: bytes,
        document_s: float,
        replica: "Noted",
        app: App,
        access: AccessLog | None,
    ) -> None:
        self.name = name
        self.document = document
        """Its part in the pool, as the store has it."""
        self.document_s = document_s
        """When that was looked at."""
        self.replica = replica
        self.app = app
        self._access = access
        self._writing = Lock()
        self.memory_bytes = _memory_bytes(replica)
        self.direct: Direct = app.direct
        self.drain = app.drain
        self.noted = False
        """Whether it has rows that the spool lacks."""
        self.spooled = False
        """Whether it has rows that the store lacks."""

    def write_access(self) -> None:
        """Blocks; bring the lines of the access log to the disk."""
        if self._access is not None:
            with self._writing:
                self._access.write()

    @property
    def busy(self) -> bool:
        return self.app.in_progress > 0

    @property
    def used_s(self) -> float:
        return self.app.used_s

    @property
    def body_bytes_max(self) -> int:
        return self.app.body_bytes_max


class Noted(Replica):
    """A replica that says when it has something to record."""

    noted: Callable[[], None] = staticmethod(lambda: None)

    def after(self, answer: Answer) -> None:
        super().after(answer)
        self.noted()

    def refused(self, column: str, rows: int) -> None:
        super().refused(column, rows)
        self.noted()

    def predict(
        self,
        table: Table,
        *,
        version: int | None = None,
        named: Sequence[tuple[int, int, str]] = (),
    ) -> Answer:
        try:
            return super().predict(table, version=version, named=named)
        except TemporaryError:  # a failure that control may have to hear of
            self.noted()
            raise


class Tenants:
    """The models of one pool in one process. The upkeep's methods block, the others do not.

    `source` names what no other process start has. `spool` is a local folder, which the processes
    of a machine share. `clock` tells wall time, `steady` seconds that never go back. `threads` load
    and close models; `told` hears of models that came (True) and went, in the event loop. `access`
    makes a model's access log, given its spec and source. `timer` is a replica's.
    """

    def __init__(
        self,
        pool: str,
        store: Store,
        source: Callable[[], str],
        spool: Path,
        *,
        memory_bytes: int,
        poll_s: float,
        clock: Callable[[], float],
        steady: Callable[[], float],
        meter: LoadMeter,
        threads: Executor,
        told: Callable[[Tenant, bool], None] = lambda _tenant, _here: None,
        access: Callable[[Spec, str], AccessLog | None] = lambda _spec, _source: None,
        timer: Callable[[], float] | None = None,
    ) -> None:
        self.pool = pool
        self.later: Callable[[Callable[[], None]], object] = lambda work: work()
        """Runs a function in the event loop, from another thread."""
        self._store = store
        self._source = source
        self._spool = spool
        self._clock = clock
        self._steady = steady
        self._meter = meter
        self._access = access
        self._timer = timer
        self._names: tuple[str, ...] = ()
        self._names_s: float | None = None
        self._marks: dict[str, Mark] = {}
        self._noted: deque[Tenant] = deque()
        self._spooled: deque[Tenant] = deque()
        self._rota = Rota(poll_s, share=REFRESH_SHARE)
        self._adopt_s = steady()
        self._tick_took_s = self._report_took_s = 0.0
        self.tenancy: Tenancy[Tenant] = Tenancy(
            memory_bytes,
            load=self._load,
            close=self._close,
            came=lambda tenant: told(tenant, True),
            went=lambda tenant: told(tenant, False),
            clock=steady,
            threads=threads,
        )

    @property
    def rota(self) -> Rota:
        """Whose catalog is looked at when."""
        return self._rota

    def known(self, name: str) -> bool | None:
        """Whether there is a model of that name; None if only `look` can tell."""
        if name in self._names:
            return True
        fresh = self._names_s is not None and self._steady() - self._names_s < NAMES_S
        return False if fresh else None

    @property
    def looked(self) -> bool:
        """Whether the names were ever learned."""
        return self._names_s is not None

    @property
    def names(self) -> tuple[str, ...]:
        """All models, as of the last `look`."""
        return self._names

    def look(self) -> None:
        """Blocks; learn the names of all models. Raises StoreUnavailable."""
        self._names = members(self._store, self.pool)
        self._names_s = self._steady()

    def unknown(self, name: str) -> UnknownName:
        """What to say to who asks for a model that is not there: some that are."""
        shown = self._names[:TOLD_MAX]
        more = len(self._names) - len(shown)
        told = (*shown, f"and {more} more") if more else shown
        return UnknownName("model", name[:100], told)

    def refresh(self) -> None:
        """Blocks; look at the catalogs of those whose turn it is. None is looked at twice."""
        if self._names_s is None or self._steady() - self._names_s > NAMES_AGE_S:
            with suppress(HapredictError):  # it goes on with what it has
                self.look()
        registry = self.tenancy.registry
        self._rota.follow((tenant.name for tenant in registry), self._steady())
        for _ in range(len(self._rota)):
            began_s = self._steady()
            name = self._rota.take(began_s)
            if name is None:
                break
            tenant = registry.get(name)
            news = tenant is not None and self._follow(tenant)
            ended_s = self._steady()
            self._rota.looked(name, ended_s, ended_s - began_s, news=news)
        self.later(self.tenancy.trim)

    def tick_s(self, usual_s: float) -> float:
        """Seconds until the next tick."""
        return min(max(usual_s, self._tick_took_s / RECORD_SHARE), max(usual_s, TICK_MAX_S))

    def report_s(self) -> float:
        """Seconds until the next report."""
        return max(REPORT_S, self._report_took_s / RECORD_SHARE)

    def tick(self) -> None:
        """Blocks; bring rows to the local disk."""
        began_s = self._steady()
        for tenant in _taken(self._noted):
            tenant.noted = False
            tenant.replica.tick()
            if not tenant.spooled:
                tenant.spooled = True
                self._spooled.append(tenant)
        self._tick_took_s = self._steady() - began_s

    def report(self) -> None:
        """Blocks; bring rows to the store."""
        began_s = self._steady()
        for tenant in _taken(self._spooled):
            tenant.spooled = False
            tenant.replica.report()
            if tenant.replica.detail()["parts_waiting"] and not tenant.spooled:
                tenant.spooled = True
                self._spooled.append(tenant)
        self._report_took_s = self._steady() - began_s
        if self._steady() >= self._adopt_s:
            self._adopt_s = self._steady() + ADOPT_S
            self._adopt()

    def close(self) -> None:
        """Blocks; close all that is loaded."""
        for tenant in self.tenancy.registry:
            try:
                self._close(tenant)
            except OSError as error:
                log.warning("model %s was not closed in order: %s", tenant.name, error)

    def _load(self, name: str) -> Tenant:
        path = member_path(self.pool, name)
        try:
            data = self._store.get(path)
        except NotFound:
            raise self.unknown(name) from None
        spec = read_member(data, path)
        # under the source of its last time here, lest the journal have one more for each load
        source = self._marks.pop(name, None) or self._source()
        replica = Noted(
            self._store, name, source, self._spool, self._clock, spec=spec, timer=self._timer
        )
        replica.refresh()
        access = self._access(spec, source.source if isinstance(source, Mark) else source)
        app = App(replica, clock=self._clock, meter=self._meter, access=access)
        tenant = Tenant(name, data, self._steady(), replica, app, access)

        def noted() -> None:
            if not tenant.noted:
                tenant.noted = True
                self._noted.append(tenant)

        replica.noted = noted
        return tenant

    def _close(self, tenant: Tenant) -> None:
        tenant.replica.close()
        tenant.write_access()
        mark = tenant.replica.mark()
        if mark is not None:
            self._marks[tenant.name] = mark

    def _follow(self, tenant: Tenant) -> bool:
        """Take up what changed; whether anything did."""
        tenant.write_access()
        if self._steady() - tenant.document_s >= SPEC_S:
            tenant.document_s = self._steady()
            if self._is_outdated(tenant):
                self.later(lambda: self.tenancy.drop(tenant.name))
                return True
        changed = tenant.replica.refresh()
        tenant.memory_bytes = _memory_bytes(tenant.replica)
        return changed

    def _is_outdated(self, tenant: Tenant) -> bool:
        """Whether the model has another spec by now, or is in the pool no more."""
        try:
            data = self._store.get(member_path(self.pool, tenant.name))
        except NotFound:
            return True
        except HapredictError:  # it goes on with what it has
            return False
        return data != tenant.document

    def _adopt(self) -> None:
        """Ship what dead processes left of models that nobody asks for."""
        for name in self._names:
            if not _has_rows(self._spool / name):
                continue
            tenant = self.tenancy.registry.get(name)
            if tenant is not None:
                tenant.replica.report()
                continue
            # by the model itself, since its rules of alerts look at rows before they are shipped
            with suppress(OSError, HapredictError):
                path = member_path(self.pool, name)
                spec = read_member(self._store.get(path), path)
                replica = Replica(
                    self._store, name, self._source(), self._spool, self._clock, spec=spec
                )
                replica.refresh()
                replica.report()
                replica.close()


def _memory_bytes(replica: Replica) -> int:
    """What a model takes of the process's memory, by the size of its networks: an estimate."""
    return _TENANT_BYTES + sum(_VERSION_BYTES + 2 * length for length in replica.network_bytes)


def _taken(waiting: deque[Tenant]) -> Iterator[Tenant]:
    """Those that wait now; who comes meanwhile is for the next time."""
    for _ in range(len(waiting)):
        with suppress(IndexError):  # others may take some too
            yield waiting.popleft()


def _has_rows(folder: Path) -> bool:
    with suppress(OSError):
        return any(path.suffix == ".spool" for path in folder.iterdir())
    return False
