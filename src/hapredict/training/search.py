"""A search on record: its trials, what to try next, who won, and whether that is a gain.

All that a search knows is the list of its trials. What to try next is a function of them, so a
search that was killed goes on as if nothing had happened.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray

from hapredict.sections import Task
from hapredict.training.metrics import losses
from hapredict.training.space import Settings, Space, from_json, key_of

TrialState = Literal["running", "finished", "stopped", "failed"]

STARTUP_TRIALS = 10
"""Trials by chance alone, before there is something to learn from."""
_TRIES = 20
"""Proposals of settings that were tried already, before one is picked by chance."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fit with settings of its own, for as long as it was worth it."""

    number: int
    """From 0, which has the spec's own settings."""
    settings: Settings
    state: TrialState = "running"
    reason: str = ""
    """Why it ended, or what befell it."""
    share: float = 0.0
    """Of its passes, finished."""
    loss: float | None = None
    """Lowest validation loss until then."""
    reports: tuple[tuple[float, float], ...] = ()
    """Share and lowest loss at each report."""
    latency_ms: float | None = None
    """Of one core, to score one row: 99th of 100. Known at the end."""
    seconds: float = 0.0
    """Wall time in all its processes."""
    restarts: int = 0
    """Times that its process died and another one went on."""
    pid: int = 0
    """Its process, for drills."""

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Trial":
        """The trial that `to_json` wrote."""
        reports = tuple((share, loss) for share, loss in raw["reports"])
        return cls(**{**raw, "settings": from_json(raw["settings"]), "reports": reports})


def propose(
    space: Space, trials: Sequence[Trial], seed: int, latency_ms_max: float | None = None
) -> dict[str, Any] | None:
    """The settings to try next; None if all of the space has been tried.

    The first are the spec's own. Then TPE (Bergstra et al., 2011) as Optuna has it: settings that
    are likely among the best trials and unlikely among the others. A trial that was stopped early
    ranks below those that finished, one that is too slow below all others, and one that runs counts
    as bad, so that trials side by side do not all try the same. The same trials and seed give the
    same proposal.
    """
    if not trials:
        return dict(space.own)
    tried = {key_of(trial.settings) for trial in trials}
    inside = sum(trial.settings in space for trial in trials)
    if inside >= space.size:
        return None
    for attempt in range(_TRIES):
        study = _study(space, trials, _seed(seed, len(trials), attempt), latency_ms_max)
        settings = _ask(study, space)
        if key_of(settings) not in tried:
            return settings
    return _by_chance(space, tried, np.random.default_rng([seed, len(trials)]))


def too_slow(trial: Trial, latency_ms_max: float | None) -> bool:
    """Whether a finished trial may not win."""
    if latency_ms_max is None or trial.latency_ms is None:
        return False
    return trial.latency_ms > latency_ms_max


def winner(trials: Sequence[Trial], latency_ms_max: float | None = None) -> Trial | None:
    """The finished trial with the lowest loss among those that are fast enough; None if none is.

    Of equal ones the first, so that the spec's own settings stay.
    """
    fit = [
        trial
        for trial in trials
        if trial.state == "finished"
        and trial.loss is not None
        and not too_slow(trial, latency_ms_max)
    ]
    return min(fit, key=lambda trial: (trial.loss, trial.number), default=None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two settings on the hold-out, which no trial has seen; losses as gates judge by."""

    outcome: Literal["better", "not better", "worse"]
    rows: int
    seeds: tuple[int, ...]
    """Each setting was fitted once with each."""
    own_loss: float
    tuned_loss: float
    difference: float
    """Mean of tuned minus own over rows and seeds; below 0 is a gain."""
    low: float
    """With `high`: where the difference lies with a confidence of 95 %."""
    high: float
    by_seed: tuple[float, ...]
    """The difference with each seed."""

    @property
    def sentence(self) -> str:
        """What was found, with its numbers."""
        change = (
            f"loss on {self.rows} hold-out rows {self.own_loss:.5f} -> {self.tuned_loss:.5f} "
            f"({self.difference:+.5f}, 95 % interval {self.low:+.5f} to {self.high:+.5f}, "
            f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''})"
        )
        return f"{self.outcome} than the spec's own settings: {change}"

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Comparison":
        """The comparison that `dataclasses.asdict` and JSON made of one."""
        return cls(**{**raw, "seeds": tuple(raw["seeds"]), "by_seed": tuple(raw["by_seed"])})


def compare(
    task: Task,
    labels: NDArray[Any],
    own: Mapping[int, NDArray[Any]],
    tuned: Mapping[int, NDArray[Any]],
    scale: float = 1.0,
    *,
    rows_min: int = 50,
    confidence: float = 0.95,
) -> Comparison:
    """Whether the tuned settings beat the spec's own: scores [rows, outputs] by seed of each.

    A paired test on the bounded losses of the same rows (`metrics.losses`), averaged over the
    seeds. "better" and "worse" are what the interval leaves no doubt of; with fewer than `rows_min`
    rows nothing is. The interval is about rows of this kind, not about other seeds: `by_seed` shows
    how much these matter.
    """
    seeds = tuple(own)
    before = np.stack([losses(task, labels, own[seed], scale) for seed in seeds])
    after = np.stack([losses(task, labels, tuned[seed], scale) for seed in seeds])
    change = (after - before).mean(axis=0)
    rows = len(change)
    mean = float(change.mean())
    error = float(change.std(ddof=1)) / sqrt(rows) if rows > 1 else float("inf")
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    low, high = mean - reach, mean + reach
    outcome: Literal["better", "not better", "worse"] = "not better"
    if rows >= rows_min and high < 0:
        outcome = "better"
    elif rows >= rows_min and low > 0:
        outcome = "worse"
    return Comparison(
        outcome=outcome,
        rows=rows,
        seeds=seeds,
        own_loss=float(before.mean()),
        tuned_loss=float(after.mean()),
        difference=mean,
        low=low,
        high=high,
        by_seed=tuple(float(line) for line in (after - before).mean(axis=1)),
    )


def _by_chance(space: Space, tried: set[str], chance: np.random.Generator) -> dict[str, Any] | None:
    families = list(space.families)
    for _ in range(10 * _TRIES):
        family = families[int(chance.integers(len(families)))]
        settings = {"family": family} | {
            name: choices[int(chance.integers(len(choices)))]
            for name, choices in space.families[family].items()
        }
        if key_of(settings) not in tried:
            return settings
    # nearly all were tried, so there are few
    return next((settings for settings in space if key_of(settings) not in tried), None)


def _seed(seed: int, trials: int, attempt: int) -> int:
    digest = hashlib.sha256(f"{seed} {trials} {attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _study(
    space: Space, trials: Sequence[Trial], seed: int, latency_ms_max: float | None
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for trial in trials:
        if trial.settings in space:
            study.add_trial(_told(space, trial, latency_ms_max))
    return study


def _told(space: Space, trial: Trial, latency_ms_max: float | None) -> optuna.trial.FrozenTrial:
    """A trial as Optuna has it: positions among the choices."""
    family = trial.settings["family"]
    fields = space.families[family]
    distributions = {_name(family, name): _distribution(fields[name]) for name in fields}
    places = {
        _name(family, name): choices.index(trial.settings[name]) for name, choices in fields.items()
    }
    if len(space.families) > 1:
        distributions["family"] = optuna.distributions.CategoricalDistribution(
            tuple(space.families)
        )
        places["family"] = family
    states = optuna.trial.TrialState
    finished = trial.state == "finished" and trial.loss is not None
    running = trial.state == "running"
    over_ms = (trial.latency_ms or 0.0) - (latency_ms_max or float("inf"))
    return optuna.trial.create_trial(
        state=states.COMPLETE if finished else states.RUNNING if running else states.PRUNED,
        value=trial.loss if finished else None,
        params=places,
        distributions=distributions,
        intermediate_values={round(1000 * share): loss for share, loss in trial.reports},
        constraints={"latency": over_ms} if over_ms > 0 else {},
    )


def _ask(study: optuna.Study, space: Space) -> dict[str, Any]:
    asked = study.ask()
    families = tuple(space.families)
    family = asked.suggest_categorical("family", families) if len(families) > 1 else families[0]
    settings: dict[str, Any] = {"family": family}
    for name, choices in space.families[family].items():
        if _ordered(choices):
            place = asked.suggest_int(_name(family, name), 0, len(choices) - 1)
        else:
            place = asked.suggest_categorical(_name(family, name), tuple(range(len(choices))))
        settings[name] = choices[place]
    return settings


def _name(family: str, field: str) -> str:
    return f"{family} {field}"


def _ordered(choices: tuple[Any, ...]) -> bool:
    """Growing numbers are neighbours of each other; other choices have nothing in common."""
    numbers = all(isinstance(choice, int | float) for choice in choices)
    return numbers and list(choices) == sorted(choices)


def _distribution(choices: tuple[Any, ...]) -> optuna.distributions.BaseDistribution:
    if _ordered(choices):
        return optuna.distributions.IntDistribution(0, len(choices) - 1)
    return optuna.distributions.CategoricalDistribution(tuple(range(len(choices))))
