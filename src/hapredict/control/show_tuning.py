"""How a search looks while it runs and when it has ended: a table on a terminal, else lines."""

from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hapredict.control.patching import yaml_of
from hapredict.control.show import Displayed
from hapredict.control.tuning import Progress
from hapredict.training.search import Trial
from hapredict.training.space import difference

_LINES_AROUND = 3
_LINES_A_TRIAL = 2
_STYLES = {"running": "cyan", "finished": "", "stopped": "dim", "failed": "red"}


class TuningShown(Displayed):
    """The trials of a search as they come: `show` it the progress. Use it in a `with`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.display = self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self._console.is_terminal
            else None
        )
        self._said: set[str] = set()
        self._last: Progress | None = None

    def stopped(self) -> None:
        if self._last is not None and self._last.trials:
            self._console.print(progress_table(self._last))

    def show(self, progress: Progress) -> None:
        """Show how far the search is."""
        if self._live is not None:
            height = self._console.height - _LINES_AROUND
            self._live.update(progress_table(progress, height // _LINES_A_TRIAL), refresh=True)
        else:
            lines = [progress.detail] if progress.state == "running" else []
            for line in lines + [trial_line(trial, progress) for trial in progress.trials]:
                if line not in self._said:
                    self._said.add(line)
                    self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        self._last = progress


def progress_table(progress: Progress, rows_max: int | None = None) -> Table:
    """The trials as a table; the title says what goes on.

    `rows_max`: as many rows as fit; those that run, the best one and the last that ended.
    """
    ended = sum(trial.state != "running" for trial in progress.trials)
    title = f"{ended} of {progress.planned} trials, {progress.spent_s:.0f} s"
    if progress.state == "running" and progress.detail:
        title = f"{progress.detail}; {title}"
    table = Table(title=Text(title), title_justify="left", box=None, header_style="bold")
    for name, justify in (("#", "right"), ("settings", "left"), ("passes", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("validation loss", justify="right")
    table.add_column("ms a row", justify="right")
    table.add_column("state")
    best = _best(progress)
    for trial in _shown(progress.trials, best, rows_max):
        style = "green" if trial.number == best else _STYLES[trial.state]
        # brackets in a sentence are text
        table.add_row(*map(Text, _cells(trial, progress)), style=style)
    return table


def _shown(trials: tuple[Trial, ...], best: int | None, rows_max: int | None) -> list[Trial]:
    if rows_max is None or len(trials) <= rows_max:
        return list(trials)
    must = [trial for trial in trials if trial.state == "running" or trial.number == best]
    others = [trial for trial in trials if trial not in must]
    last = others[len(others) - max(0, rows_max - len(must)) :]
    return sorted([*must, *last], key=lambda trial: trial.number)


def trial_line(trial: Trial, progress: Progress) -> str:
    """A trial as a line that changes only when its state does."""
    number, settings, passes, loss, latency, state = _cells(trial, progress)
    if trial.state == "running":
        return f"trial {number}: {settings}: {state}"
    known = f"loss {loss} after {passes}" + (f", {latency} ms a row" if latency != "-" else "")
    return f"trial {number}: {state}; {known}"


def summary_of(progress: Progress) -> dict[str, Any]:
    """A finished search for people and programs: JSON values."""
    found = progress.found
    states = [trial.state for trial in progress.trials]
    comparison = found.comparison if found is not None else None
    return {
        "recommended": found.recommended if found is not None else False,
        "result": progress.detail,
        "patch": dict(found.patch) if found is not None else {},
        "holdout": None
        if comparison is None
        else {
            "outcome": comparison.outcome,
            "rows": comparison.rows,
            "own_loss": comparison.own_loss,
            "tuned_loss": comparison.tuned_loss,
            "difference": comparison.difference,
            "low": comparison.low,
            "high": comparison.high,
            "by_seed": list(comparison.by_seed),
        },
        "rows": progress.rows,
        "spent_s": progress.spent_s,
        "ended": {state: states.count(state) for state in dict.fromkeys(states)},
        "trials": [
            {
                "number": trial.number,
                "settings": dict(trial.settings),
                "state": trial.state,
                "reason": trial.reason,
                "passes": trial.share,
                "validation_loss": trial.loss,
                "latency_ms": trial.latency_ms,
                "seconds": trial.seconds,
                "restarts": trial.restarts,
            }
            for trial in progress.trials
        ],
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The outcome in a few lines, the changed keys as YAML."""
    ended = ", ".join(f"{count} {state}" for state, count in summary["ended"].items())
    said = [summary["result"], f"trials: {ended}, in {summary['spent_s']:.0f} s; {summary['rows']}"]
    if summary["patch"]:
        said.append(yaml_of(summary["patch"]).rstrip())
    if summary.get("written"):
        said.append("written into the spec; `hapredict apply` trains it on all data")
    elif summary["patch"] and "file" in summary:
        said.append(f"also in {summary['file']}; `hapredict tune --write` puts it into the spec")
    return "\n".join(said)


def _cells(trial: Trial, progress: Progress) -> tuple[str, ...]:
    own = progress.trials[0].settings
    reason = " ".join(trial.reason.split())
    return (
        str(trial.number),
        difference(trial.settings, own),
        f"{trial.share:.0%}",
        "-" if trial.loss is None else f"{trial.loss:.5g}",
        "-" if trial.latency_ms is None else f"{trial.latency_ms:.3g}",
        f"{trial.state}: {reason}" if reason else trial.state,
    )


def _best(progress: Progress) -> int | None:
    # one that finished and may not win has a reason
    known = [trial for trial in progress.trials if trial.state == "finished" and not trial.reason]
    best = min(known, key=lambda trial: trial.loss or 0.0, default=None)
    return best.number if best is not None else None
