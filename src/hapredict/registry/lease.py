"""The lease: one controller of a model at a time.

Each owner holds a *term*, an object `lease/<model>/<number>.json` that only one can create, and
says that it lives by rewriting `lease/<model>/beats/<number>.json`. A term without a beat for
`lease_s` seconds may be followed by the next one.

A lease alone does not make anybody stop: an owner that was suspended believes in its term until
it looks. What makes two controllers harmless is the term in the catalog (`catalog.fence`), which
a new owner writes first. The lease only keeps them from working against each other.

Clocks. Times are wall seconds, written by one machine and compared on another. If the clock of
the contender is ahead by d seconds, a living owner is followed d seconds too early; with d above
`lease_s` less the time between beats, that may happen to an owner that beats on time. Nothing
breaks, for the old owner is fenced, but keep clocks within a few seconds (NTP). If the owner's
clock is ahead, that does not prolong its term: a contender also counts from when it first saw the
last beat.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hapredict.errors import Conflict, CorruptBundle, LeaseLost, NotFound
from hapredict.registry.store import Store, decode_json, encode_json


@dataclass(frozen=True, slots=True)
class Term:
    """The right of one owner to control a model."""

    number: int
    owner: str
    at_s: float
    """When it was taken, in wall seconds of its owner."""
    lease_s: float
    """How long its owner may be silent."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life in a term."""

    at_s: float
    """Wall seconds of the owner."""
    released: bool = False
    """The owner gave the term up; nobody needs to wait."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a contender knows of the newest term."""

    term: Term
    beat: Beat
    since_s: float
    """When it first saw this beat, on its own clock."""

    def free_in_s(self, now_s: float) -> float:
        """Seconds until the next term may be taken; 0 or less if it may be now."""
        if self.beat.released:
            return 0.0
        return min(self.beat.at_s, self.since_s) + self.term.lease_s - now_s


def look_again(last: Seen | None, term: Term, beat: Beat, now_s: float) -> Seen:
    """What is known after a look that found `term` and `beat`: an unchanged beat keeps its age."""
    if last is not None and (last.term, last.beat) == (term, beat):
        return last
    return Seen(term, beat, now_s)


class Lease:
    """One process' part in the lease of a model.

    `owner` must be new at each start of a process: one that started again under its old name
    would pass for its former self, which may still act. Not for use from several threads.
    """

    def __init__(self, store: Store, model: str, owner: str, lease_s: float) -> None:
        self._store = store
        self._model = model
        self._owner = owner
        self._lease_s = lease_s
        self._seen: Seen | None = None
        self._mine: Term | None = None
        self._beat_s = 0.0

    @property
    def term(self) -> Term | None:
        """The term that was taken here, whether or not it still holds."""
        return self._mine

    def look(self, now_s: float) -> Seen | None:
        """The newest term and its last sign of life; None before the first. For `status`."""
        number = self._newest_number()
        if number:
            term = self._read_term(number)
            self._seen = look_again(self._seen, term, self._read_beat(term), now_s)
        return self._seen

    def take(self, now_s: float, *, heir_of: str = "") -> Term:
        """Take the next term. If the newest is held here already, it is returned.

        Owners whose names begin with `heir_of`, unless it is empty, are known to act no more, so
        that nobody waits for the end of their terms. Raises Conflict while somebody else holds it,
        or was faster: try again later.
        """
        seen = self.look(now_s)
        if seen is not None and seen.term.owner == self._owner and not seen.beat.released:
            # Also where an earlier call wrote the term and never got the answer.
            return self._hold(seen.term, seen.beat.at_s)
        gone = seen is not None and bool(heir_of) and seen.term.owner.startswith(heir_of)
        if seen is not None and not gone and (wait_s := seen.free_in_s(now_s)) > 0:
            message = (
                f"model {self._model!r} is controlled by {seen.term.owner} (term "
                f"{seen.term.number}); its lease ends in {wait_s:.1f} s unless it is renewed"
            )
            raise Conflict(message)
        number = seen.term.number + 1 if seen is not None else 1
        term = Term(number, self._owner, now_s, self._lease_s)
        self._store.put_new(self._term_path(number), encode_json(asdict(term)))
        return self._hold(term, now_s)

    def beat(self, now_s: float) -> None:
        """Say that the owner lives. Call it several times in `lease_s`.

        Raises LeaseLost if a newer term was taken, or none is held here.
        """
        term = self._held()
        self._write_beat(term, Beat(now_s))
        self._beat_s = now_s

    def check(self, now_s: float) -> None:
        """Return while the lease holds. Costs one failed read.

        Raises LeaseLost if a newer term was taken, if none is held here, or if the last beat is
        `lease_s` ago, after which a newer one may be taken at any moment.
        """
        silent_s = now_s - self._beat_s
        if self._mine is not None and silent_s >= self._mine.lease_s:
            message = (
                f"model {self._model!r}: term {self._mine.number} had no beat for {silent_s:.1f} s "
                f"and its lease is {self._mine.lease_s:g} s; stop, or beat again if nobody took it"
            )
            raise LeaseLost(message)
        self._held()

    def release(self) -> None:
        """Give the term up, so that the next owner need not wait. No error without a term."""
        term, self._mine = self._mine, None
        if term is not None:
            self._write_beat(term, Beat(self._beat_s, released=True))

    def _hold(self, term: Term, beat_s: float) -> Term:
        self._mine = term
        self._beat_s = beat_s
        return term

    def _held(self) -> Term:
        term = self._mine
        if term is None:
            message = f"model {self._model!r}: {self._owner} holds no term; take one first"
            raise LeaseLost(message)
        if self._store.exists(self._term_path(term.number + 1)):
            message = (
                f"model {self._model!r}: term {term.number} is over, a newer one was taken; "
                "stop, another controller acts"
            )
            raise LeaseLost(message)
        return term

    def _newest_number(self) -> int:
        if self._seen is not None:
            number = self._seen.term.number
        else:
            folder = f"lease/{self._model}"
            names = [path.removeprefix(f"{folder}/") for path in self._store.list(folder)]
            number = max((int(name[:8]) for name in names if name[:8].isdecimal()), default=0)
        while self._store.exists(self._term_path(number + 1)):
            number += 1
        return number

    def _read_term(self, number: int) -> Term:
        path = self._term_path(number)
        return Term(**_fields(decode_json(self._store.get(path), path), path, Term))

    def _read_beat(self, term: Term) -> Beat:
        path = self._beat_path(term.number)
        try:
            data = self._store.get(path)
        except NotFound:
            return Beat(term.at_s)
        return Beat(**_fields(decode_json(data, path), path, Beat))

    def _write_beat(self, term: Term, beat: Beat) -> None:
        self._store.put(self._beat_path(term.number), encode_json(asdict(beat)))

    def _term_path(self, number: int) -> str:
        return f"lease/{self._model}/{number:08d}.json"

    def _beat_path(self, number: int) -> str:
        return f"lease/{self._model}/beats/{number:08d}.json"


def _fields(raw: Any, path: str, kind: type[Term | Beat]) -> Mapping[str, Any]:
    expected = sorted(entry.name for entry in fields(kind))
    if not isinstance(raw, Mapping) or sorted(raw) != expected:
        message = f"{path}: expected {', '.join(expected)}; got {raw!r}; restore it from a backup"
        raise CorruptBundle(message)
    return raw
