"""A search for better settings on record: what was asked for, how far it is, what it found.

    tuning/<model>/request.json             what is searched now; written by whoever asks
    tuning/<model>/progress.json            how far that is; written by whoever searches
    tuning/<model>/<key>/trials/0003.json   one trial; the truth from which a search goes on
    tuning/<model>/<key>/kept/0003.state    bytes that a trial or a comparison goes on from

The key is a hash of all that a trial's outcome depends on: the rows as they were prepared, and what
the spec says of training and of the space. Asking for more trials, for other limits of time and
latency or for more at once goes on with the same search.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from hapredict.errors import NotFound
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.sections import TrainingSpec
from hapredict.spec import Spec, build_spec
from hapredict.training.search import Comparison, Trial, too_slow, winner
from hapredict.training.space import Settings, difference, from_json, patch

SearchState = Literal["running", "finished", "stopped", "failed"]

_NOT_THE_OUTCOME = {
    "checkpoints_kept",
    "cpus_per_worker",
    "device",
    "memory_bytes_max",
    "worker_failures_max",
    "workers",
}
"""Fields of `training` that say where and how surely it runs."""


@dataclass(frozen=True, slots=True)
class Book:
    """The trials of one search in the store."""

    store: Store
    prefix: str

    def trials(self) -> list[Trial]:
        """All trials, by number. Raises StoreUnavailable."""
        paths = sorted(self.store.list(f"{self.prefix}/trials"))
        return [Trial.from_json(decode_json(self.store.get(path), path)) for path in paths]

    def note(self, trial: Trial) -> None:
        """Write down how a trial is. Raises StoreUnavailable."""
        path = f"{self.prefix}/trials/{trial.number:04d}.json"
        self.store.put(path, encode_json(trial.to_json()))

    def keep(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, over those before. Raises StoreUnavailable."""
        self.store.put(f"{self.prefix}/kept/{name}", data)

    def kept(self, name: str) -> bytes | None:
        """The bytes under a name; None if there are none. Raises StoreUnavailable."""
        try:
            return self.store.get(f"{self.prefix}/kept/{name}")
        except NotFound:
            return None

    def drop(self, name: str) -> None:
        """Forget the bytes under a name, if there are any. Raises StoreUnavailable."""
        self.store.delete(f"{self.prefix}/kept/{name}")

    def drop_all(self) -> None:
        """Forget all bytes; the trials stay. Raises StoreUnavailable."""
        for path in self.store.list(f"{self.prefix}/kept"):
            self.store.delete(path)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    recommended: bool
    """Whether to take the settings: they beat the spec's own on the hold-out, or those are slower
    than `tuning.latency_ms_max`."""
    sentence: str
    settings: Settings
    """Of the best trial; the spec's own if there is none."""
    patch: Mapping[str, Any]
    """What the spec must say to have them; {} if not recommended."""
    comparison: Comparison | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Found":
        """What `dataclasses.asdict` and JSON made of one."""
        comparison = raw["comparison"]
        return cls(
            **{
                **raw,
                "settings": from_json(raw["settings"]),
                "comparison": Comparison.from_json(comparison) if comparison else None,
            }
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is, or how it ended."""

    request: str
    """The id of what was asked for."""
    state: SearchState = "running"
    detail: str = ""
    """What it does now, or why it ended."""
    key: str = ""
    planned: int = 0
    """Trials asked for."""
    trials: tuple[Trial, ...] = ()
    """Without their reports."""
    rows: str = ""
    """How many rows are used, and why the others are not."""
    spent_s: float = 0.0
    """Wall time of the search over all its starts."""
    found: Found | None = None
    begun_s: float = 0.0
    """When it was asked for: wall time, in seconds since 1970."""
    pid: int = 0
    """The process that searches, for drills."""

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Progress":
        """The progress that `to_json` wrote."""
        trials = tuple(Trial.from_json(trial) for trial in raw["trials"])
        found = Found.from_json(raw["found"]) if raw["found"] else None
        return cls(**{**raw, "trials": trials, "found": found})


@dataclass(frozen=True, slots=True)
class Request:
    """What is searched: a spec, whether it was applied or not."""

    spec: Spec
    id: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(encode_json(self.spec.model_dump(mode="json"))).hexdigest()
        object.__setattr__(self, "id", digest[:16])


def ask(store: Store, request: Request, now_s: float) -> None:
    """Write down what is to be searched, and that it begins or goes on. Raises StoreUnavailable.

    Trials that failed are to be fitted again: whoever asks again may have mended the cause. No
    search of the model may be running.
    """
    model = request.spec.name
    before = noted(store, model)
    begun = Progress(request.id, detail="starting", begun_s=now_s)
    if before is not None:
        begun = replace(begun, key=before.key, spent_s=before.spent_s)
        _try_again(Book(store, f"tuning/{model}/{before.key}"))
        if before.request == request.id and before.state != "finished":
            begun = replace(begun, begun_s=before.begun_s)
    store.put(f"tuning/{model}/request.json", encode_json(request.spec.model_dump(mode="json")))
    note(store, model, begun)


def _try_again(book: Book) -> None:
    for trial in book.trials():
        if trial.state == "failed":
            book.note(Trial(trial.number, trial.settings, reason="failed before"))


def asked(store: Store, model: str) -> Request:
    """What is searched for a model. Raises NotFound, StoreUnavailable."""
    path = f"tuning/{model}/request.json"
    return Request(build_spec(decode_json(store.get(path), path)))


def note(store: Store, model: str, progress: Progress) -> None:
    """Overwrite how far the search of a model is. Raises StoreUnavailable."""
    trials = tuple(replace(trial, reports=()) for trial in progress.trials)
    shown = replace(progress, trials=trials)
    store.put(f"tuning/{model}/progress.json", encode_json(shown.to_json()))


def noted(store: Store, model: str) -> Progress | None:
    """How far the last search of a model is; None if there was none. Raises StoreUnavailable."""
    path = f"tuning/{model}/progress.json"
    try:
        return Progress.from_json(decode_json(store.get(path), path))
    except NotFound:
        return None


def book_of(store: Store, spec: Spec, rows_key: str) -> tuple[str, Book]:
    """The key of a search and its book. `rows_key` names the prepared rows."""
    told = {
        "rows": rows_key,
        "training": spec.training.model_dump(mode="json", exclude=_NOT_THE_OUTCOME),
        "tuning": spec.tuning.model_dump(mode="json", include={"families", "space", "seed"}),
    }
    key = hashlib.sha256(encode_json(told)).hexdigest()[:16]
    return key, Book(store, f"tuning/{spec.name}/{key}")


def judged(
    training: TrainingSpec,
    trials: Sequence[Trial],
    comparison: Comparison | str | None,
    latency_ms_max: float | None,
) -> Found:
    """What the search came to. The trials' first has the spec's own settings.

    `comparison` is None if there is nothing to compare (the best trial is the spec's own, or there
    is none, or the spec's own failed), and a sentence if it could not be made.
    """
    own = trials[0]
    best = winner(trials, latency_ms_max)
    slow = too_slow(own, latency_ms_max)
    if best is None:
        why = (
            f"no settings are within {latency_ms_max:g} ms a row"
            if any(too_slow(trial, latency_ms_max) for trial in trials)
            else "no trial finished"
        )
        return Found(False, f"the spec's own settings stand: {why}", own.settings, {})
    if best.number == own.number:
        why = f"none of {len(trials) - 1} others has a lower validation loss"
        return Found(False, f"the spec's own settings stand: {why}", own.settings, {})
    what = difference(best.settings, own.settings)
    changes = patch(training, best.settings)
    if comparison is None:
        sentence = f"{what}: needed, since the spec's own settings fail: {own.reason}"
        return Found(True, sentence, best.settings, changes)
    if isinstance(comparison, str):
        sentence = f"the spec's own settings stand: {what} cannot be compared: {comparison}"
        return Found(False, sentence, best.settings, {})
    if slow:
        sentence = (
            f"{what}: needed, since the spec's own settings take {own.latency_ms:.3g} ms a row and "
            f"{latency_ms_max:g} ms are allowed; {comparison.sentence}"
        )
        return Found(True, sentence, best.settings, changes, comparison)
    if comparison.outcome != "better":
        sentence = f"the spec's own settings stand: {what} is {comparison.sentence}"
        return Found(False, sentence, best.settings, {}, comparison)
    return Found(True, f"{what}: {comparison.sentence}", best.settings, changes, comparison)
