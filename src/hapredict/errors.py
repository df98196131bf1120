"""Every error that hapredict raises on purpose.

HapredictError
|-- TemporaryError            trying again may help
|   |-- StoreUnavailable      the store did not answer
|   |-- Conflict              another writer was faster: read again, decide again
|   |-- ClusterUnavailable    Ray, Serve or one of our actors did not answer
|   |-- Overloaded            the replica has as much work as it may take
|   `-- TimedOut              a wait reached its limit
`-- PermanentError            trying again with the same input cannot help
    |-- SpecError             the YAML file is wrong
    |-- DataError             the data cannot be learned from
    |-- UnknownName           no such plug-in, model or version
    |-- BadRequest            a request that no model can answer
    |   `-- SchemaMismatch    its rows do not fit the model's schema
    |-- NotFound              nothing is stored under that name
    |-- CorruptBundle         a bundle's bytes differ from what was published
    |-- LeaseLost             somebody else controls the model now
    |-- NotPermitted          this machine does not let us do that
    |-- TrainingFailed        training ended without a model
    |   `-- TrainingCancelled it was asked to; the same run can go on later
    `-- GateRefused           a model exists, and a check forbids its use

Errors cross processes by pickling, so each keeps its fields in ``args`` and makes its sentence
when it is read. The sentence says where, what came, what was expected and what to do.
"""

from dataclasses import dataclass


class HapredictError(Exception):
    """Any failure that hapredict foresaw."""

    exit_code = 1
    """What a command ends with when this error reaches its end."""
    rows: tuple[int, int] | None = None
    """The rows of a caller's frame that it is about, from and to, if it is about some of them."""


class TemporaryError(HapredictError):
    """The same call may succeed later."""


class PermanentError(HapredictError):
    """The same call will fail again until something else is changed."""


class StoreUnavailable(TemporaryError):
    """The store did not answer, or answered with an error of its own."""


class Conflict(TemporaryError):
    """Another writer took the name first; nothing was written."""


class ClusterUnavailable(TemporaryError):
    """Ray, Ray Serve or one of hapredict's actors did not answer."""


class Overloaded(TemporaryError):
    """The replica refused work to keep the answers that it owes on time.

    Example: `max_ongoing_requests` are in progress; the caller should wait `retry_after_s`.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class TimedOut(TemporaryError):
    """A wait reached its limit before what it waited for happened."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    where: str
    """A path in the spec, a column of the data or a field of a request."""
    what: str
    """What came, what was expected and what to do, in one sentence."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class _WithProblems(PermanentError):
    """An error that lists all that is wrong, not just the first thing."""

    headline = "cannot go on"

    def __init__(self, problems: "tuple[Problem, ...] | str") -> None:
        if isinstance(problems, str):
            problems = (Problem("", problems),)
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.headline}: {self.problems[0]}"
        return "\n".join([f"{self.headline}:", *(f"  - {problem}" for problem in self.problems)])


class SpecError(_WithProblems):
    """The spec does not describe a model."""

    headline = "the spec is wrong"
    exit_code = 2


class DataError(_WithProblems):
    """The data cannot be learned from as the spec asks."""

    headline = "the data cannot be used"


class UnknownName(PermanentError):
    """A name that no table holds.

    Example: `family: mpl`, where `mlp` was meant.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(kind, name, known)

    def __str__(self) -> str:
        kind, name, known = self.args
        return f"there is no {kind} {name!r}; known: {', '.join(known) or 'none'}"


class BadRequest(PermanentError):
    """A request that cannot be answered as it stands.

    `status` is the HTTP status code (4xx) that the caller gets.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The faulty fields, where the fault lies in fields."""
        return ()


class SchemaMismatch(BadRequest):
    """Rows that do not fit the model's schema: one problem a faulty field."""

    def __init__(self, problems: tuple[Problem, ...], status: int = 422) -> None:
        super().__init__("the rows do not fit the model", status)
        self.args = (problems, status)
        self._problems = problems

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._problems

    def __str__(self) -> str:
        shown = "; ".join(str(problem) for problem in self._problems[:5])
        more = len(self._problems) - 5
        return shown + (f"; and {more} more" if more > 0 else "")


class NotFound(PermanentError):
    """Nothing is stored under that name."""


class CorruptBundle(PermanentError):
    """A bundle's bytes are not those that were published."""


class LeaseLost(PermanentError):
    """Another controller holds a newer term; this one must stop acting."""


class NotPermitted(PermanentError):
    """The machine does not let us do that; the sentence says which right is missing."""


class TrainingFailed(PermanentError):
    """Training ended without a usable network."""


class TrainingCancelled(TrainingFailed):
    """Somebody asked for the training to end; its last checkpoint stays."""


class GateRefused(PermanentError):
    """A model was made and a check forbids its use; the sentence says which and why."""

    exit_code = 3
