"""The catalog: which version of a model serves, and everything that led there.

A state is a value; changes are pure functions that return a new one or raise GateRefused. The
catalog is the list of all states, each an object `catalog/<model>/<number>.json` that only one
writer can create. To append is therefore to compare and swap, and the list is the audit history:
who decided what, when and why. Control writes it, replicas follow it, and that is all the two
know of each other.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NoReturn, get_args

from hapredict.errors import Conflict, CorruptBundle, GateRefused, LeaseLost, NotFound
from hapredict.registry.store import Store, decode_json, encode_json

Stage = Literal["empty", "steady", "shadow", "canary", "watch"]
"""`empty`: nothing published. `steady`: the champion serves. `shadow`: a challenger only scores.
`canary`: it answers a share. `watch`: it was promoted, and the previous champion runs along."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Version:
    """One published model. A metric that is not finite is left out, for it says nothing."""

    number: int
    digest: str
    """Of the bundle."""
    run: str
    """The training run that made it."""
    published_s: float
    """Seconds on the model's clock (`monitoring.clock`)."""
    trained_until_s: float
    """The newest row that training saw, in seconds on the model's clock."""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        finite = {name: float(x) for name, x in self.metrics.items() if math.isfinite(x)}
        object.__setattr__(self, "metrics", finite)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """Who serves a model and how, at one moment. All times are seconds on the model's clock."""

    model: str
    term: int = 0
    """Of the controller that wrote it last; it never falls."""
    stage: Stage = "empty"
    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None
    """The champion before a promotion: what a rollback restores."""
    share: float = 0.0
    """Of keys that the challenger answers; above 0 in stage `canary` only."""
    stage_since_s: float = 0.0
    """When the stage, or the canary's step, began."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    paused: str = ""
    """Why the loop does nothing by itself; "" if it runs."""
    frozen: str = ""
    """Why no training starts by itself after a rollback; "" if one may."""
    last_training_s: float | None = None
    failed_trainings: int = 0
    """In a row."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Versions that must not serve, and why."""
    training: str = ""
    """The run in progress, or ""."""
    labels_at_training: int = 0
    """Labels joined when the last training began."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values. Numbers of versions are text where they are keys, as JSON wants it."""
        found = asdict(self)
        found["versions"] = [asdict(self.versions[number]) for number in sorted(self.versions)]
        found["refused"] = {str(number): why for number, why in self.refused.items()}
        return found

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "CatalogState":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        versions = [Version(**version) for version in raw["versions"]]
        refused = {int(number): str(why) for number, why in raw["refused"].items()}
        if raw["stage"] not in get_args(Stage):
            message = f"stage {raw['stage']!r}, expected one of {', '.join(get_args(Stage))}"
            raise ValueError(message)
        changed = {"versions": {v.number: v for v in versions}, "refused": refused}
        return cls(**{**raw, **changed})


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


def resume(state: CatalogState) -> CatalogState:
    """End a pause and a freeze, and forget failed trainings, which would pause again at once.

    Raises GateRefused if the loop is neither paused nor frozen.
    """
    if not state.paused and not state.frozen:
        _refuse(state, "resume", "the loop is neither paused nor frozen")
    return replace(state, paused="", frozen="", failed_trainings=0)


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


def start_training(state: CatalogState, run: str, now_s: float, labels: int) -> CatalogState:
    """Note that a run began, and with how many labels. Raises GateRefused if one is going on."""
    if state.training:
        _refuse(state, f"start run {run!r}", f"run {state.training!r} is in progress; end it first")
    if not run:
        _refuse(state, "start a run without a name", "name it")
    return replace(state, training=run, last_training_s=now_s, labels_at_training=labels)


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
