"""Asking again, without a network: what to send next, how long to pause, which error to raise.

`Attempts.ask` is a generator. It yields a `Send` and is sent what came of it, `Heard` or `Lost`; it
yields a `Pause` and is sent None; it returns the answer or raises. Whoever drives it waits.

    trouble                                     the next attempt
    no connection, or one that broke            at once at the next node
    Overloaded, TimedOut, other temporary ones  the same, if the retry budget allows it
    all nodes in trouble                        after a pause that grows, jittered
    anything else                               none: it would be refused again
"""

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hapredict.client.budget import RetryBudget
from hapredict.client.refusals import error_of, retry_after_s
from hapredict.errors import HapredictError, TemporaryError, TimedOut

PAUSE_MAX_S = 10.0
"""The longest pause between two rounds that the client itself chooses."""
ATTEMPT_MIN_S = 0.001
"""The least time an attempt is begun for; the header that tells it counts milliseconds."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and say what came of it within `within_s`."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    within_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next attempt."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, of whatever status."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    url: str


@dataclass(frozen=True, slots=True)
class Lost:
    """There was no answer. `at_work`: the server may still be at it, so that asking again adds."""

    error: TemporaryError
    at_work: bool


Step = Send | Pause
Said = TypeVar("Said")
Steps = Generator[Step, Heard | Lost | None, Said]
"""What to do, step by step, until the call's value."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must be over, by the client's clock, and how long it had in all."""

    limit_s: float
    end_s: float

    def passed(self, trouble: TemporaryError | None) -> TimedOut:
        """The error for a call that cannot be over in time; it names its last trouble."""
        last = "no node could be asked in it" if trouble is None else f"the last trouble: {trouble}"
        error = TimedOut(f"no answer within the deadline of {self.limit_s:g} s; {last}")
        error.__cause__ = trouble
        return error


NO_DEADLINE = Deadline(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Question:
    """One call: what is sent to whichever node, under one id."""

    method: str
    path: str
    id: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Attempts:
    """Asks several nodes for one answer. Shared by all calls of a client, and by their threads."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_s: float,
        rounds_max: int,
        pause_s: float,
        deadline_s: float | None,
        budget: RetryBudget | None,
        clock: Callable[[], float],
        chance: random.Random | None,
    ) -> None:
        """`clock` tells seconds and only goes forward; `chance` jitters pauses.

        Raises ValueError without a URL.
        """
        urls = (url,) if isinstance(url, str) else url
        self.urls = tuple(each.rstrip("/") for each in urls)
        if not self.urls:
            raise ValueError("a client needs at least one URL")
        self.timeout_s = timeout_s
        self._first = 0
        self._rounds_max = rounds_max
        self._pause_s = pause_s
        self._deadline_s = deadline_s
        self._budget = budget or RetryBudget()
        self._clock = clock
        self._chance = chance or random.Random()

    def deadline(self, deadline_s: float | None) -> Deadline:
        """The deadline of a call that begins now: its own, or the client's."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        return NO_DEADLINE if limit_s is None else Deadline(limit_s, self._clock() + limit_s)

    def ask(self, question: Question, deadline: Deadline) -> Steps[Heard]:
        """The answer of status 200. Raises the error of any other, or a TemporaryError.

        No pause and no attempt begins that cannot end before the deadline; TimedOut is raised then.
        """
        try:
            return (yield from self._ask(question, deadline))
        except HapredictError as error:
            error.add_note(f"X-Request-Id: {question.id}")
            raise

    def _ask(self, question: Question, deadline: Deadline) -> Steps[Heard]:
        self._budget.called(self._clock())
        trouble: TemporaryError | None = None
        counts, least_s = False, 0.0
        for attempt in range(self._rounds_max * len(self.urls)):
            turn, place = divmod(attempt, len(self.urls))
            pause_s = 0.0
            if turn and not place:
                # jitter over the whole pause: who failed together must not return together
                top_s = min(PAUSE_MAX_S, self._pause_s * 2 ** (turn - 1))
                pause_s, least_s = least_s + self._chance.uniform(0, top_s), 0.0
            now_s = self._clock()
            if now_s + pause_s + ATTEMPT_MIN_S > deadline.end_s:
                raise deadline.passed(trouble)
            if trouble is not None and counts and not self._budget.take(now_s):
                trouble.add_note("not asked again: the client's retry budget is used up")
                raise trouble
            if turn and not place:
                yield Pause(pause_s)
                now_s = self._clock()
                if now_s + ATTEMPT_MIN_S > deadline.end_s:  # it took longer than it should
                    raise deadline.passed(trouble)
            node = (self._first + place) % len(self.urls)
            said = yield self._send(question, node, min(self.timeout_s, deadline.end_s - now_s))
            match said:
                case Lost():
                    trouble, counts = said.error, said.at_work
                case Heard(status_code=200):
                    self._first = node  # the node that answered is asked first from now on
                    return said
                case Heard():
                    refusal = error_of(said)
                    if not isinstance(refusal, TemporaryError):
                        self._first = node
                        raise refusal
                    trouble, counts = refusal, True
                    least_s = max(least_s, retry_after_s(said))
        raise trouble or TemporaryError("no node was asked")

    def _send(self, question: Question, node: int, within_s: float) -> Send:
        told = {"x-deadline-ms": str(int(within_s * 1000)), "x-request-id": question.id}
        return Send(
            question.method,
            self.urls[node] + question.path,
            {**question.headers, **told},
            question.body,
            within_s,
        )
