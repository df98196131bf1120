"""A search over settings on Ray Tune: many fits side by side, the hopeless ones stopped early.

Ray Tune places the trials, starts dead ones again and asks its scheduler whom to stop. What must
survive is not kept by it but in a book of trials: its own snapshots lag behind, forget the
scheduler and are pickled. A search that starts again reads the book, takes up the trials that were
running from their last checkpoints, and goes on.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from hapredict.sections import TuningSpec
from hapredict.training.ray_trial import Task, run_trial, state_name
from hapredict.training.search import Trial, propose, too_slow
from hapredict.training.space import Space

GRACE = 10
"""Percent of its passes that each trial may finish."""
KEEP_ONE_IN = 3
"""Of the trials that reach 10, 30 and 90 percent of their passes, those that go on."""

_LIVE: dict[str, "_Search"] = {}
"""Searches of this process. Ray Tune pickles what it is given, so it gets names."""
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


def search_on_ray(
    name: str,
    task: Task,
    space: Space,
    tuning: TuningSpec,
    storage_path: str,
    *,
    cpus: float,
    left_s: float | None,
    on_change: Callable[[list[Trial]], None],
    cancelled: Callable[[], bool],
) -> list[Trial]:
    """All trials of the book, once there are `tuning.trials` that ended or `left_s` are over.

    `task.at_once` of them run side by side, each in a process that reserves `cpus`. `storage_path`
    is reached from every node; Ray Tune keeps things there in a folder `name` that is removed at
    the end. `on_change` hears of each change. Where `cancelled` says so, the trials end at once and
    the book says that they run, so that the same call takes them up again.
    """
    until_s = None if left_s is None else time.monotonic() + left_s
    search = _Search(task, space, tuning, until_s, on_change, cancelled)
    left = tuning.trials - sum(trial.state != "running" for trial in search.trials.values())
    if left <= 0:
        return search.listed()
    os.environ.update(_QUIET)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with _registered(name, search), _scratch(storage_path, name):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, task=task), {"cpu": cpus}),
            tune_config=tune.TuneConfig(
                search_alg=_Asked(name),
                scheduler=_Halving(search.listed()),
                num_samples=left,
                max_concurrent_trials=task.at_once,
                # importing TensorFlow takes longer than many a trial
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=storage_path,
                stop=_Stop(name),
                callbacks=[_Deaths(name)],
                failure_config=tune.FailureConfig(max_failures=task.spec.worker_failures_max),
                verbose=0,
            ),
        )
        tuner.fit()
    return search.listed()


@dataclass(eq=False)
class _Search:
    """A search in progress: what Ray Tune asks and is told, in terms of the book."""

    task: Task
    space: Space
    tuning: TuningSpec
    until_s: float | None
    on_change: Callable[[list[Trial]], None]
    cancelled: Callable[[], bool]
    trials: dict[int, Trial] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """Numbers by the ids that Ray Tune gave."""

    def __post_init__(self) -> None:
        self.trials = {trial.number: trial for trial in self.task.book.trials()}
        self._again = [trial.number for trial in self.listed() if trial.state == "running"]

    def listed(self) -> list[Trial]:
        return [self.trials[number] for number in sorted(self.trials)]

    def ask(self, trial_id: str) -> dict[str, Any] | None:
        """What the next trial is to fit; None if there is none left."""
        if self.cancelled():
            return None
        if self._again:
            number = self._again.pop(0)
            share = self.trials[number].share
            self.change(number, reason=f"goes on from {share:.0%}" if share else "starts again")
        else:
            over = self.until_s is not None and time.monotonic() > self.until_s
            if over and self.trials:  # the first one always runs, for without it nothing is known
                return None
            settings = propose(
                self.space, self.listed(), self.tuning.seed, self.tuning.latency_ms_max
            )
            if settings is None:
                return None
            number = len(self.trials)
            self.trials[number] = Trial(number, settings)
            self.change(number)
        self.running[trial_id] = number
        return {"number": number, "settings": json.dumps(dict(self.trials[number].settings))}

    def heard(self, trial_id: str, result: Mapping[str, Any]) -> int:
        """Take down a report; the trial's number."""
        number = self.running[trial_id]
        trial = self.trials[number]
        share, loss = result["percent"] / 100, result.get("loss")
        told: dict[str, Any] = {"share": share, "pid": result["pid"]}
        told["seconds"] = round(trial.seconds + result["time_this_iter_s"], 3)
        if loss is not None and share > trial.share:
            told |= {"loss": loss, "reports": (*trial.reports, (share, loss))}
        self.change(number, **told)
        return number

    def ended(self, trial_id: str, result: Mapping[str, Any] | None) -> None:
        """A trial finished, failed or was stopped; without a result its process died too often."""
        if result is None:
            self.change(self.running.pop(trial_id), state="failed", reason="its process died")
            return
        number = self.heard(trial_id, result)
        self.running.pop(trial_id)
        loss = result.get("loss")
        if "failed" in result or loss is None or not isfinite(loss):
            why = result.get("failed", f"its loss is {loss}")
            self.change(number, state="failed", reason=why)
        elif "latency_ms" in result:
            self.change(number, state="finished", reason="", latency_ms=result["latency_ms"])
            limit_ms = self.tuning.latency_ms_max
            if too_slow(self.trials[number], limit_ms):
                self.change(number, reason=f"slower than {limit_ms:g} ms a row, so it cannot win")
        else:
            why = f"loss {loss:.4g} at {self.trials[number].share:.0%} is not in the best third"
            self.change(number, state="stopped", reason=why)
            self.task.book.drop(state_name(number))

    def change(self, number: int, **changes: Any) -> None:
        self.trials[number] = replace(self.trials[number], **changes)
        self.task.book.note(self.trials[number])
        self.on_change(self.listed())


class _Asked(Searcher):
    """Ray Tune's door to what to try next, and where it tells how trials fare."""

    def __init__(self, name: str) -> None:
        super().__init__(metric="loss", mode="min")
        self._name = name

    def suggest(self, trial_id: str) -> Any:
        return _LIVE[self._name].ask(trial_id) or Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        _LIVE[self._name].heard(trial_id, result)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: ARG002
    ) -> None:
        _LIVE[self._name].ended(trial_id, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the book has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the book has it all."""


@dataclass(frozen=True)
class _Numbered:
    """A trial as the scheduler knows it: by number, the same after a restart."""

    trial_id: str

    @classmethod
    def of(cls, number: int) -> "_Numbered":
        return cls(f"trial {number}")


class _Halving(ASHAScheduler):
    """Asynchronous successive halving (Li et al., 2020) over shares of the planned passes.

    Shares compare what passes do not: families with other passes, and fits whose steps shrink along
    a cosine. The spec's own settings are never stopped. It begins where the book's trials ended.
    """

    def __init__(self, trials: list[Trial]) -> None:
        super().__init__(
            time_attr="percent",
            metric="loss",
            mode="min",
            max_t=100,
            grace_period=GRACE,
            reduction_factor=KEEP_ONE_IN,
            stop_last_trials=False,
        )
        for trial in trials:
            known = _Numbered.of(trial.number)
            super().on_trial_add(None, known)
            for share, loss in trial.reports:
                super().on_trial_result(None, known, {"percent": 100 * share, "loss": loss})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _Numbered.of(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
        number = trial.config["number"]
        action: str = super().on_trial_result(tune_controller, _Numbered.of(number), result)
        return action if number else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        super().on_trial_complete(tune_controller, _Numbered.of(trial.config["number"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _Numbered.of(trial.config["number"]))


class _Stop(Stopper):
    """Ends the search once it is cancelled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return _LIVE[self._name].cancelled()


class _Deaths(tune.Callback):
    """Counts the deaths of trials that another process takes up, and names those that do not end
    well.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
        search = _LIVE[self._name]
        number = search.running.get(trial.trial_id)
        if number is not None:
            again = search.trials[number].restarts + 1
            search.change(number, restarts=again, reason="its process died; another goes on")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
        number = trial.config["number"]
        words = str(trial.get_error()).strip().splitlines() or ["no reason given"]
        again = trial.num_failures
        _LIVE[self._name].change(number, reason=f"failed {again} times, last: {words[-1]}")


@contextmanager
def _registered(name: str, search: _Search) -> Iterator[None]:
    _LIVE[name] = search
    try:
        yield
    finally:
        del _LIVE[name]


@contextmanager
def _scratch(storage_path: str, name: str) -> Iterator[None]:
    """Ray Tune's folder, empty before and gone after."""
    _remove(storage_path, name)
    try:
        yield
    finally:
        _remove(storage_path, name)


def _remove(storage_path: str, name: str) -> None:
    """What is left over costs room and nothing else, so trouble is passed over."""
    if "://" not in storage_path:
        shutil.rmtree(Path(storage_path) / name, ignore_errors=True)
        return
    with suppress(OSError, ValueError):
        files, path = pyarrow.fs.FileSystem.from_uri(storage_path)
        files.delete_dir(f"{path.rstrip('/')}/{name}")
