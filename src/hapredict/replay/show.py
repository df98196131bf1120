"""A replay for people to look at: the table, the bar while it runs, and a figure."""

from pathlib import Path

import plotly.graph_objects as go
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hapredict.control.show import Displayed, table
from hapredict.replay.outcome import Line, Outcome

MARKS = {
    "Train": ("a training begins", "circle-open"),
    "Promote": ("promoted", "star"),
    "RollBack": ("rolled back", "x"),
    "Abort": ("challenger dropped", "triangle-down-open"),
}


class ReplayShown(Displayed):
    """A bar for the policy that lives. Use it in a `with`."""

    def __init__(self, console: Console | None = None) -> None:
        self.display = self._bar = Progress(
            TextColumn("{task.fields[policy]:>12}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", policy="")

    def begin(self, policy: str, steps: int) -> None:
        """A policy begins to live."""
        self._bar.reset(self._task, total=steps, policy=policy)

    def step(self, said: str) -> None:
        """One step is over."""
        self._bar.update(self._task, advance=1, description=_short(said))

    def tell(self, said: str) -> None:
        """Something goes on within a step."""
        self._bar.update(self._task, description=_short(said))


def outcome_text(outcome: Outcome) -> str:
    """The table, and the sentence that says what it is of."""
    head = (
        "policy",
        outcome.loss_name,
        f"less {outcome.best_schedule} [95 % over weeks]",
        outcome.figure_name,
        "trained",
        "promoted",
        "dropped",
        "rolled back",
        "alarms true/false",
        "harmless drift",
        "worst days",
    )
    rows = [_cells(line, outcome) for line in outcome.lines]
    return (
        f"{outcome.model}, {outcome.begin} to {outcome.end}: {outcome.rows:,} labelled rows; each "
        f"policy answered them all\n{table(head, rows)}"
    )


def _cells(line: Line, outcome: Outcome) -> tuple[str, ...]:
    found = line.delta
    apart = f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    counts = (line.trained, line.promoted, line.refused, line.rolled_back)
    return (
        line.policy,
        f"{line.loss:.4f}",
        "" if line.policy == outcome.best_schedule else apart,
        f"{line.figure:.4g}",
        *map(str, counts),
        f"{line.alarms_true}/{line.alarms_false}",
        str(line.drift_harmless),
        str(line.worst_days),
    )


def write_figure(outcome: Outcome, path: Path) -> None:
    """The loss by week of each policy as one HTML file, with marks where control acted."""
    figure = go.Figure()
    for line in outcome.lines:
        figure.add_scatter(
            x=outcome.week_starts,
            y=line.weeks,
            name=f"{line.policy} ({line.loss:.4f})",
            legendgroup=line.policy,
            mode="lines",
        )
    colours = figure.layout.template.layout.colorway or ("#636efa",)
    for place, line in enumerate(outcome.lines):
        for action, (meaning, symbol) in MARKS.items():
            events = [event for event in line.events if event["action"] == action]
            if not events:
                continue
            figure.add_scatter(
                x=[event["at"] for event in events],
                y=[_near(line, outcome, event["at"]) for event in events],
                text=[event["reason"] for event in events],
                name=f"{line.policy}: {meaning}",
                legendgroup=line.policy,
                showlegend=False,
                mode="markers",
                marker={"symbol": symbol, "size": 10, "color": colours[place % len(colours)]},
                hovertemplate="%{x}: " + meaning + "<br>%{text}<extra></extra>",
            )
    figure.update_layout(
        title=f"{outcome.model}: {outcome.loss_name} by week, {outcome.begin} to {outcome.end}",
        yaxis_title=outcome.loss_name,
        hovermode="closest",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True)


def _near(line: Line, outcome: Outcome, date: str) -> float | None:
    """The loss of the week that a day lies in."""
    weeks = [place for place, start in enumerate(outcome.week_starts) if start <= date]
    return line.weeks[weeks[-1]] if weeks else None


def _short(said: str) -> str:
    return said if len(said) <= 90 else f"{said[:87]}..."
