"""The replica: follows the catalog, answers rows, and records what it answered.

It knows nothing of HTTP and of Ray. A version is loaded, warmed and compared with its golden
scores before it may answer; then who serves is exchanged by one assignment, which is why a canary,
a promotion or a rollback costs no request. When the store does not answer, the replica goes on
with what it has and says so.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hapredict.data.schema import Schema, Table
from hapredict.errors import Conflict, GateRefused, HapredictError, TemporaryError
from hapredict.features.typical import typical
from hapredict.registry.catalog import Catalog, Entry, Version
from hapredict.registry.store import Store, encode_json
from hapredict.serving import risk
from hapredict.serving.descriptions import About
from hapredict.serving.engine import Loaded, Speed, load_version
from hapredict.serving.explain import Baseline, Effects, effects_of
from hapredict.serving.health import HealthLog
from hapredict.serving.journal import Label
from hapredict.serving.label_check import check_label
from hapredict.serving.recorder import LabelWriter, Mark, Recorder
from hapredict.serving.risk import problems_of, rules_of
from hapredict.serving.scoring import Answer, Routes, answer, scored
from hapredict.serving.who_serves import routes_of, wanted
from hapredict.spec import Spec

__all__ = ["Answer", "Label", "Replica", "refused_path"]


def refused_path(model: str, number: int) -> str:
    """Where a replica says that it refused a version, as JSON with `reason`."""
    return f"refused/{model}/{number}.json"


class Replica:
    """One model's versions, ready to answer. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        model: str,
        source: str | Mark,
        spool: Path,
        clock: Callable[[], float],
        *,
        spec: Spec | None = None,
        timer: Callable[[], float] | None = None,
    ) -> None:
        """Not `ready` before a `refresh` found a champion.

        `source` is a name that no other process start has, of letters, digits, '_' and '-', or the
        mark of a replica closed here. `spool` is a local directory, which replicas share. `clock`
        tells wall time in seconds. `spec` is what was applied last; without it, settings are those
        of the champion's bundle. `timer` tells the calling thread's processor time in seconds;
        without it no version is too slow. Raises OSError if the spool cannot be written.
        """
        self.model = model
        self._store = store
        mark = source if isinstance(source, Mark) else Mark(source)
        self._source = source = mark.source
        self._clock = clock
        self._given = spec
        self._timer = timer
        self._catalog = Catalog(store, model)
        self._health = HealthLog(store, model, source, begun=mark.health)
        self._recorder = Recorder(
            store,
            model,
            source,
            spool / model,
            fault=self._fault,
            health=self._health,
            first=mark.part,
        )
        self._labels = LabelWriter(store, model, source, at=mark.labels)
        self._refreshing = threading.Lock()
        self._routes: Routes | None = None
        self._entry: Entry | None = None
        self._finished = False
        self._refused: dict[str, str] = {}
        self._reported: set[int] = set()
        self._notes: dict[int, str] = {}
        self._trouble = ""
        self._faults = 0
        self._last_fault = ""
        self._calls = itertools.count(mark.calls)
        self._ruled: tuple[Any, Any, tuple[risk.Rule, ...]] = (None, None, ())

    @property
    def ready(self) -> bool:
        """Whether there is a version that answers."""
        return self._routes is not None

    @property
    def spec(self) -> Spec:
        """What was applied last, or else the champion's spec. Raises TemporaryError."""
        return self._given or self._serving().champion.spec

    @property
    def schema(self) -> Schema:
        """What requests must look like: the champion's schema. Raises TemporaryError."""
        return self._serving().champion.schema

    @property
    def extras(self) -> tuple[str, ...]:
        """What the champion says beside its scores, by name. Raises TemporaryError."""
        return self._serving().champion.engine.extras

    @property
    def model_version(self) -> int:
        """The champion's number. Raises TemporaryError if there is none yet."""
        return self._serving().split.champion

    @property
    def network_bytes(self) -> tuple[int, ...]:
        """The length of each loaded version's network."""
        routes = self._routes
        return () if routes is None else tuple(v.network_bytes for v in routes.versions.values())

    def mark(self) -> Mark | None:
        """After `close`: what goes on where this ended; None if rows are left in the spool."""
        if self._recorder.waits:
            return None  # others may adopt the source
        part, labels = self._recorder.next_part, self._labels.at
        return Mark(self._source, next(self._calls), part, labels, self._health.counted)

    def about(self, version: int | None = None) -> About:
        """What the champion, or a loaded version, learned. Raises UnknownName, TemporaryError."""
        routes = self._serving()
        loaded = routes.champion if version is None else routes.loaded(version)
        row = typical(loaded.plan, loaded.reference.bins)
        return About(loaded.number, loaded.schema, loaded.engine.extras, loaded.plan, row)

    def detail(self) -> dict[str, Any]:
        """What serves and what keeps it from serving better, as JSON values."""
        routes, entry = self._routes, self._entry
        recorded = self._recorder.state()
        return {
            "model": self.model,
            "source": self._source,
            "ready": routes is not None,
            "stage": entry.state.stage if entry is not None else "empty",
            "catalog_sequence": entry.sequence if entry is not None else 0,
            "champion": routes.split.champion if routes is not None else None,
            "challenger": routes.split.challenger if routes is not None else None,
            "share": routes.split.share if routes is not None else 0.0,
            "shadow": routes.split.shadow if routes is not None else False,
            "compared": routes.compared if routes is not None else None,
            "versions": sorted(routes.versions) if routes is not None else [],
            "refused": {str(number): why for number, why in sorted(self._notes.items())},
            "store_trouble": self._trouble,
            "journal_trouble": recorded.trouble,
            "rows_recorded": recorded.rows,
            "rows_waiting": recorded.rows_waiting,
            "rows_dropped": recorded.rows_dropped,
            "rows_unpaired": recorded.rows_unpaired,
            "parts_shipped": recorded.parts,
            "parts_waiting": recorded.parts_waiting,
            "labels_written": self._labels.written,
            "faults": self._faults,
            "last_fault": self._last_fault,
        }

    def predict(
        self,
        table: Table,
        *,
        version: int | None = None,
        named: Sequence[tuple[int, int, str]] = (),
    ) -> Answer:
        """Answer the rows of a table that `schema.table` made; `version` pins a loaded version.

        `named` says which rows, from and to, a caller has a key for; the others get ids of ours.
        Raises UnknownName for a version that is not loaded, TemporaryError if nothing is ready or
        the champion cannot score, SchemaMismatch for rows without time on the event clock.
        """
        routes = self._serving()
        stem = f"{self._source}-{next(self._calls):x}"
        try:
            return answer(
                routes,
                table,
                stem=stem,
                now_s=self._clock(),
                version=version,
                named=named,
                fault=self._fault,
            )
        except TemporaryError as error:
            self._fault(str(error))
            if routes.compares:
                self._health.failed(routes, routes.split.champion if version is None else version)
            raise

    def explain(
        self, table: Table, *, version: int | None = None, baseline: Baseline = "typical"
    ) -> Effects:
        """What each field does to the scores of a few rows; see `explain.py` for what that means.

        By the champion or a loaded version, whoever would answer the row. Nothing is recorded: an
        explanation is no prediction. Raises UnknownName, TemporaryError.
        """
        routes = self._serving()
        loaded = routes.champion if version is None else routes.loaded(version)
        return effects_of(
            lambda rows: scored(loaded, rows).scores,
            table,
            loaded.schema,
            typical(loaded.plan, loaded.reference.bins),
            version=loaded.number,
            baseline=baseline,
            rule=routes.rule,
        )

    def after(self, answer: Answer) -> None:
        """Record an answer, once it is written. What it costs is paid by the next `tick`."""
        self._recorder.add(answer)

    def refused(self, column: str, rows: int) -> None:
        """Count rows that do not fit the schema, by the column at fault."""
        self._recorder.refuse(column, rows)

    def feedback(self, labels: Sequence[Label]) -> None:
        """Blocks; the labels are durable when it returns.

        Ids are not looked up here: a label without a prediction is stored and counted by the
        monitor. Raises BadRequest for a label that no loaded version knows; then none was written.
        Raises TemporaryError if the store does not answer: send them again, for a label that
        arrives twice counts once.
        """
        routes = self._serving()
        for place, label in enumerate(labels):
            check_label(routes, label, f"labels[{place}]")
        if labels:
            self._labels.add(labels)

    def tick(self) -> None:
        """Blocks; bring recorded rows to the local disk. For every 50 ms or so."""
        self._recorder.tick()

    def report(self) -> None:
        """Blocks; bring recorded rows to the store. For every `monitoring.report_s`.

        While versions are compared, also what is counted about them (`health`).
        """
        self._recorder.report(*self._shipping())
        routes = self._routes
        if routes is not None and routes.compares:
            with suppress(TemporaryError):  # told with the next report
                self._health.report(routes, self._clock)

    def close(self) -> None:
        """Blocks; bring all recorded rows to the store, if it answers."""
        self._recorder.close(*self._shipping())

    def refresh(self) -> bool:
        """Blocks; look at the catalog and serve what it says. Whether anything changed.

        Trouble of the store keeps what serves now and shows in `detail`.
        """
        with self._refreshing:
            try:
                entry = self._catalog.latest()
                if entry is None or (self._finished and entry == self._entry):
                    self._trouble = ""
                    return False
                return self._follow(entry)
            except (HapredictError, OSError) as error:
                self._trouble = str(error)
                return False

    def _follow(self, entry: Entry) -> bool:
        state, before = entry.state, self._routes
        loaded = dict(before.versions) if before is not None else {}
        refused: dict[int, str] = {}
        held_back = ""
        for number in wanted(state):
            try:
                # a champion that is slow here is better than none
                speed = self._speed() if number != state.champion else None
                self._load(state.versions[number], loaded, speed)
            except GateRefused as error:
                refused[number] = str(error)
            except TemporaryError as error:
                held_back = str(error)
        routes = routes_of(self.model, state, loaded, refused, before, self._given)
        changed = routes is not None and (before is None or routes.differs(before))
        if changed:
            self._routes = routes
        self._notes = refused
        self._entry = entry
        self._trouble = held_back
        self._finished = False
        for number, why in refused.items():
            self._report_refusal(number, why)
        self._finished = not held_back
        return changed

    def _speed(self) -> Speed | None:
        """What is asked of a version that does not serve yet."""
        spec = self._given or (self._routes.champion.spec if self._routes is not None else None)
        if self._timer is None or spec is None:
            return None
        return Speed(self._timer, spec.serving.latency_ms_max)

    def _load(self, version: Version, loaded: dict[int, Loaded], speed: Speed | None) -> None:
        held = loaded.get(version.number)
        if held is not None and held.digest == version.digest:
            return
        if version.digest in self._refused:
            raise GateRefused(self._refused[version.digest])
        try:
            loaded[version.number] = load_version(self._store, self.model, version, speed=speed)
        except GateRefused as error:
            self._refused[version.digest] = str(error)
            raise

    def _report_refusal(self, number: int, why: str) -> None:
        if number in self._reported:
            return
        note = {"version": number, "reason": why, "source": self._source, "at_s": self._clock()}
        with suppress(Conflict):  # another replica refused it first
            self._store.put_new(refused_path(self.model, number), encode_json(note))
        self._reported.add(number)

    def _shipping(self) -> tuple[Schema | None, tuple[risk.Rule, ...]]:
        """The schema of what is shipped, if one serves, and the rules of alerts that fit it."""
        routes = self._routes
        if routes is None:
            return None, ()
        schema, alerts = routes.champion.schema, (self._given or routes.champion.spec).alerts
        if (schema, alerts) != self._ruled[:2]:
            usable = [rule for rule in rules_of(alerts) if not problems_of(rule, schema)]
            if len(usable) < len(alerts.rules):
                self._fault("a rule of alerts names what the champion does not have")
            self._ruled = schema, alerts, tuple(usable)
        return schema, self._ruled[2]

    def _serving(self) -> Routes:
        routes = self._routes
        if routes is None:
            raise TemporaryError(f"model {self.model!r} has no version in service yet; try later")
        return routes

    def _fault(self, what: str) -> None:
        self._faults += 1
        self._last_fault = what
