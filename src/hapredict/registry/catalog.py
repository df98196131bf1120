"""The catalog: which version of a model serves, and everything that led there.

A state is a value; changes are pure functions that return a new one or raise GateRefused. The
catalog is the list of all states, each an object `catalog/<model>/<number>.json` that only one
writer can create. To append is therefore to compare and swap, and the list is the audit history:
who decided what, when and why. Control writes it, replicas follow it, and that is all the two
know of each other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

from hapredict.errors import Conflict, CorruptBundle, GateRefused, LeaseLost, NotFound
from hapredict.registry.state import CatalogState, Stage, Version
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.sections import DAY_S

__all__ = ["Catalog", "CatalogState", "Entry", "Stage", "Version"]

MONTH_S = 30 * DAY_S
_FORMAT = 1


def publish(state: CatalogState, version: Version) -> CatalogState:
    """Add a version. The first one becomes champion at once, for there is nobody to compare with.

    Raises GateRefused unless its number is higher than all before.
    """
    highest = max(state.versions, default=0)
    if version.number <= highest:
        _refuse(state, f"publish version {version.number}", f"number it {highest + 1}")
    state = replace(state, versions={**state.versions, version.number: version})
    if state.champion is not None:
        return state
    return replace(
        state, champion=version.number, stage="steady", stage_since_s=version.published_s
    )


def shadow(state: CatalogState, number: int, now_s: float) -> CatalogState:
    """Make a published version the challenger, which answers nobody yet. Raises GateRefused."""
    if state.stage != "steady":
        _refuse(state, f"try version {number}", "one challenger at a time, from stage steady")
    _check_usable(state, number, "try")
    return replace(state, stage="shadow", challenger=number, share=0.0, stage_since_s=now_s)


def share(state: CatalogState, share: float, now_s: float) -> CatalogState:
    """Let the challenger answer a share of keys, 0 < share < 1. Raises GateRefused."""
    if state.challenger is None:
        _refuse(state, f"give a share of {share:g}", "shadow a version first")
    if not 0 < share < 1:
        _refuse(state, f"give a share of {share:g}", "0 < share < 1; use promote or abort")
    return replace(state, stage="canary", share=share, stage_since_s=now_s)


def promote(state: CatalogState, now_s: float) -> CatalogState:
    """Make the challenger champion, and watch it. Raises GateRefused if there is none."""
    if state.challenger is None:
        _refuse(state, "promote", "shadow a version first")
    return replace(
        state,
        stage="watch",
        champion=state.challenger,
        challenger=None,
        previous=state.champion,
        share=0.0,
        stage_since_s=now_s,
    )


def settle(state: CatalogState, now_s: float) -> CatalogState:
    """End the watch over a promotion that held. Raises GateRefused outside stage `watch`."""
    if state.stage != "watch":
        _refuse(state, "settle", "settle ends stage watch only")
    return replace(state, stage="steady", stage_since_s=now_s)


def abort(state: CatalogState, now_s: float) -> CatalogState:
    """Drop the challenger. Raises GateRefused if there is none."""
    if state.challenger is None:
        _refuse(state, "abort", "abort drops a challenger in stage shadow or canary")
    return replace(state, stage="steady", challenger=None, share=0.0, stage_since_s=now_s)


def roll_back(
    state: CatalogState, now_s: float, to: int | None = None, freeze: str = ""
) -> CatalogState:
    """Restore the previous champion, or version `to`; a challenger is dropped.

    `freeze` says why no training starts by itself until `resume`. Afterwards there is no previous
    champion, so that rolling back twice cannot restore the bad one; name it with `to` for that.
    Raises GateRefused if there is nothing to restore, or it is refused.
    """
    target = state.previous if to is None else to
    if target is None:
        _refuse(state, "roll back", "there is no previous champion; name a published version")
    _check_usable(state, target, "roll back to")
    return replace(
        state,
        stage="steady",
        champion=target,
        challenger=None,
        previous=None,
        share=0.0,
        stage_since_s=now_s,
        frozen=freeze or state.frozen,
    )


def pause(state: CatalogState, reason: str) -> CatalogState:
    """Keep the loop from acting by itself. Raises GateRefused without a reason."""
    if not reason:
        _refuse(state, "pause without a reason", "say why, for whoever finds it paused")
    return replace(state, paused=reason)


def resume(state: CatalogState, now_s: float | None = None) -> CatalogState:
    """End a pause, a freeze and an incident, and forget failed trainings, which would pause again.

    Alarms of an incident that were raised up to `now_s` do not begin another one. Raises
    GateRefused if there is nothing to end.
    """
    if not state.paused and not state.frozen and not state.incident:
        _refuse(state, "resume", "the loop is neither paused nor frozen, and sees no incident")
    cleared_s = now_s if state.incident and now_s is not None else state.cleared_s
    return replace(
        state, paused="", frozen="", incident="", cleared_s=cleared_s, failed_trainings=0
    )


def begin_incident(state: CatalogState, what: str) -> CatalogState:
    """Note that data are broken. Raises GateRefused without a reason, or if it is noted."""
    if not what or state.incident:
        _refuse(state, "begin an incident", "say what is broken, once")
    return replace(state, incident=what)


def end_incident(state: CatalogState) -> CatalogState:
    """Note that data are whole again. Raises GateRefused if there is no incident."""
    if not state.incident:
        _refuse(state, "end an incident", "there is none")
    return replace(state, incident="")


def refuse(state: CatalogState, number: int, why: str) -> CatalogState:
    """Forbid a version for good. Raises GateRefused while it is champion or challenger."""
    what = f"refuse version {number}"
    if number not in state.versions:
        _refuse(state, what, f"published are {_numbers(state)}")
    if not why:
        _refuse(state, f"{what} without a reason", "say why")
    if number == state.champion:
        _refuse(state, what, "roll back first")
    if number == state.challenger:
        _refuse(state, what, "abort first")
    return replace(state, refused={**state.refused, number: why})


def start_training(
    state: CatalogState, run: str, now_s: float, labels: int, trigger: str = ""
) -> CatalogState:
    """Note that a run began, why, and with how many labels. Raises GateRefused if one is going on.

    Beginnings of more than 30 days ago are forgotten.
    """
    if state.training:
        _refuse(state, f"start run {run!r}", f"run {state.training!r} is in progress; end it first")
    if not run:
        _refuse(state, "start a run without a name", "name it")
    return replace(
        state,
        training=run,
        training_trigger=trigger,
        last_training_s=now_s,
        trainings_s=(*(one for one in state.trainings_s if now_s - one < MONTH_S), now_s),
        labels_at_training=labels,
    )


def end_training(state: CatalogState, failed: bool) -> CatalogState:
    """Note that the run in progress ended. Raises GateRefused if there is none."""
    if not state.training:
        _refuse(state, "end training", "no run is in progress")
    return replace(state, training="", failed_trainings=state.failed_trainings + 1 if failed else 0)


def fence(state: CatalogState, term: int) -> CatalogState:
    """Write a controller's term into the state, after which older controllers cannot append.

    The same term again changes nothing. Raises LeaseLost for a term that is over.
    """
    if term < state.term:
        message = (
            f"model {state.model!r}: term {term} is over, term {state.term} is in the catalog; "
            "stop, another controller acts"
        )
        raise LeaseLost(message)
    return replace(state, term=term)


def _check_usable(state: CatalogState, number: int, verb: str) -> None:
    what = f"{verb} version {number}"
    if number not in state.versions:
        _refuse(state, what, f"published are {_numbers(state)}")
    if number in state.refused:
        _refuse(state, what, f"it was refused: {state.refused[number]}")
    if number == state.champion:
        _refuse(state, what, "it is the champion")


def _numbers(state: CatalogState) -> str:
    return ", ".join(str(number) for number in sorted(state.versions)) or "none"


def _refuse(state: CatalogState, what: str, allowed: str) -> NoReturn:
    serving = f"champion {state.champion}, challenger {state.challenger}"
    message = (
        f"model {state.model!r} is in stage {state.stage} ({serving}): cannot {what}; {allowed}"
    )
    raise GateRefused(message)


@dataclass(frozen=True, slots=True)
class Entry:
    """A state, and why it came about."""

    sequence: int
    """1, 2, 3, ... without a gap."""
    action: str
    reason: str
    """The sentence of whoever decided."""
    at_s: float
    """Seconds of wall time."""
    event_s: float
    """Seconds on the model's clock."""
    term: int
    actor: str
    """The controller or user that wrote it."""
    state: CatalogState

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "state": self.state.to_json()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Entry":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(**{**raw, "state": CatalogState.from_json(raw["state"])})


class Catalog:
    """The list of a model's states in a store. Any number of readers and writers may use it."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model
        self._seen: Entry | None = None

    def latest(self) -> Entry | None:
        """The last entry, or None. Costs one failed read if nothing is new.

        Raises CorruptBundle if it cannot be read, and StoreUnavailable.
        """
        found = self._seen
        if found is None:
            paths = self._store.list(f"catalog/{self._model}")
            if not paths:
                return None
            found = self._read(paths[-1])
        while True:
            try:
                found = self._read(self._path(found.sequence + 1))
            except NotFound:
                break
        self._seen = found
        return found

    def append(
        self,
        previous: Entry | None,
        state: CatalogState,
        *,
        action: str,
        reason: str,
        at_s: float,
        event_s: float,
        actor: str,
    ) -> Entry:
        """Write the state that follows `previous` (None: the first one).

        A controller passes `fence(state, its term)`: a state that it derived from a newer
        controller's entry would else carry the newer term.
        Raises Conflict if another entry follows it already: read again and decide again.
        Raises LeaseLost if a newer term is in the catalog: stop. After StoreUnavailable the entry
        may or may not be there; reading again tells.
        """
        if previous is not None:
            self._check_term(previous, state)
        entry = Entry(
            sequence=1 if previous is None else previous.sequence + 1,
            action=action,
            reason=reason,
            at_s=at_s,
            event_s=event_s,
            term=state.term,
            actor=actor,
            state=state,
        )
        data = encode_json({"format": _FORMAT, **entry.to_json()})
        try:
            self._store.put_new(self._path(entry.sequence), data)
        except Conflict:
            latest = self.latest()
            if latest is not None:
                self._check_term(latest, state)
            raise
        self._seen = entry
        return entry

    def entries(self, after: int = 0) -> list[Entry]:
        """All entries, oldest first, whose sequence is above `after`. Raises as `latest` does."""
        paths = self._store.list(f"catalog/{self._model}", after=self._path(after))
        return [self._read(path) for path in paths]

    def _check_term(self, stored: Entry, state: CatalogState) -> None:
        fence(stored.state, state.term)

    def _path(self, sequence: int) -> str:
        return f"catalog/{self._model}/{sequence:08d}.json"

    def _read(self, path: str) -> Entry:
        raw = decode_json(self._store.get(path), path)
        try:
            if raw.pop("format") != _FORMAT:
                message = f"expected format {_FORMAT}; update hapredict"
                raise ValueError(message)
            entry = Entry.from_json(raw)
            if self._path(entry.sequence) != path or entry.state.model != self._model:
                message = f"it says entry {entry.sequence} of model {entry.state.model!r}"
                raise ValueError(message)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"{path}: is not a catalog entry ({error!r}); restore it from a backup"
            raise CorruptBundle(message) from error
        return entry
