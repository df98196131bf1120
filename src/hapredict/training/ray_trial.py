"""One fit of a search, in a process of its own: it goes on from what is kept of it, and reports.

What every fit of a search has in common travels once; the training rows are read once a process.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from ray import tune

from hapredict.errors import HapredictError, PermanentError, TemporaryError
from hapredict.sections import TrainingSpec
from hapredict.training.families import find_family
from hapredict.training.feed import Feed
from hapredict.training.fitted import EpochReport, Fitted
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.ray_feed import worker_feed
from hapredict.training.search import Trial
from hapredict.training.shards import ShardSet
from hapredict.training.space import Settings, change, from_json

REPORTS = 20
"""Reports of a trial, at most: a fit of a thousand short passes must not wait for each."""

_FEEDS: dict[str, Feed] = {}


class Book(Protocol):
    """What survives of a search. It is pickled to the trials."""

    def trials(self) -> list[Trial]:
        """All trials, by number."""

    def note(self, trial: Trial) -> None:
        """Write down how a trial is."""

    def keep(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, over those before."""

    def kept(self, name: str) -> bytes | None:
        """The bytes under a name; None if there are none."""

    def drop(self, name: str) -> None:
        """Forget the bytes under a name, if there are any."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What every fit of a search has in common."""

    shape: NetworkShape
    spec: TrainingSpec
    train: ShardSet
    validation: Examples
    """Rows that choose the best pass and rank the trials."""
    book: Book
    latency_ms: Callable[[TrainingSpec, bytes], float]
    """Milliseconds of one core that a row takes, of the spec and the weights of a fit."""
    at_once: int
    """Fits that share a machine, and its memory."""


def fit_settings(
    task: Task, settings: Settings, name: str, on_epoch: Callable[[EpochReport], None]
) -> tuple[TrainingSpec, Fitted]:
    """The spec with the settings, and its fit in this process, on one thread.

    The fit goes on from what the book keeps under `name`; a checkpoint that does not fit, from
    other code or damaged, is thrown away. Raises TrainingFailed.
    """
    # fits of one thread each share a machine best, and end in the same bits on every one
    alone = {"workers": 1, "cpus_per_worker": 1.0, "device": "cpu"}
    spec = change(task.spec, {**settings, **alone})
    fitter = _fitter(find_family(spec.family).fitter)
    train = _feed(task)
    reported = 0.0

    def keep(report: EpochReport) -> None:
        nonlocal reported
        share = report.epoch / report.epochs
        if share < 1 and share - reported < 1 / REPORTS:
            return
        reported = share
        if report.checkpoint is not None:
            task.book.keep(name, report.checkpoint)
        on_epoch(report)

    def fit(resume: bytes | None) -> Fitted:
        fitted: Fitted = fitter.fit(
            task.shape, spec, train, task.validation, resume=resume, on_epoch=keep
        )
        return fitted

    resume = task.book.kept(name)
    try:
        return spec, fit(resume)
    except PermanentError:
        if resume is None or reported:
            raise
        task.book.drop(name)
        return spec, fit(None)


def state_name(number: int) -> str:
    """Where the book keeps the checkpoint of a trial."""
    return f"{number:04d}.state"


def _feed(task: Task) -> Feed:
    """The training rows, read once a process."""
    if task.train.key not in _FEEDS:
        _FEEDS.clear()
        _FEEDS[task.train.key] = worker_feed(task.train, task.spec, task.at_once)
    return _FEEDS[task.train.key]


@cache
def _fitter(module: str) -> Any:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    found = import_module(module)
    # before the first operation, and only then
    use_threads = getattr(found, "use_threads", None)
    if use_threads is not None:
        use_threads(1)
    return found


def run_trial(config: dict[str, Any], task: Task) -> None:
    """One trial's life, in a process of its own."""
    number, settings = config["number"], from_json(json.loads(config["settings"]))
    low, percent = float("inf"), 0.0
    found: dict[str, Any]

    def on_epoch(report: EpochReport) -> None:
        nonlocal low, percent
        low = min(low, report.validation_loss)
        percent = 100 * report.epoch / report.epochs
        if percent < 100:
            tune.report({"percent": percent, "loss": low})

    try:
        spec, fitted = fit_settings(task, settings, state_name(number), on_epoch)
        low = min(report.validation_loss for report in fitted.history)
        percent = 100.0
        found = {"loss": low, "latency_ms": task.latency_ms(spec, fitted.weights)}
    except TemporaryError:
        raise
    except HapredictError as error:
        found = {"failed": str(error)}
    except Exception as error:  # the same settings would fail again: their trial ends here
        found = {"failed": f"{type(error).__name__}: {error}"}
    tune.report({"percent": percent, **found, "done": True})
