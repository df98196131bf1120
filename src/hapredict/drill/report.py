"""What a replay showed, as text to read and as one HTML file that needs nothing else."""

import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hapredict.control.show import history_text, moment, table
from hapredict.drill.past import Answered
from hapredict.monitoring.report import Alarm
from hapredict.registry.catalog import Entry
from hapredict.training.metrics import evaluate

ROWS_MIN = 200


@dataclass(frozen=True, slots=True)
class Month:
    """One month: the first model, had it stayed alone, beside what answered live."""

    month: str
    rows: int
    base_rate: float
    versions: tuple[int, ...]
    static: Mapping[str, float]
    live: Mapping[str, float]


@dataclass(slots=True)
class Counts:
    """What was sent and what became of it."""

    requests: int = 0
    failed: int = 0
    rows: int = 0
    labels_sent: int = 0
    labels_acknowledged: int = 0
    labels_joined: int = 0
    labels_waiting: int = 0
    """Acknowledged and stored, without a visible prediction."""
    rows_seen: int = 0
    """Rows that reached the monitor."""
    worst_s: float = 0.0
    """The slowest answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """One promise of the demo, and whether it was kept."""

    promise: str
    kept: bool
    detail: str


@dataclass(slots=True)
class Story:
    """All that a report tells."""

    model: str
    months: list[Month] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    steps: list[Step] = field(default_factory=list)
    evidence: list[tuple[str, Alarm]] = field(default_factory=list)
    """Event date and the monitor's alarm, as each appeared."""
    wall_s: float = 0.0

    @property
    def kept(self) -> bool:
        return all(step.kept for step in self.steps)


def months_of(
    answers: Sequence[Answered], static_scores: Sequence[float], task: Any = "binary"
) -> list[Month]:
    """The months of all answers that have a label; `static_scores` [answers] are the first model's.

    Months with fewer than ROWS_MIN labels, or with one kind of label, are left out: their figures
    would be noise.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        if answer.row.label is not None:
            groups[answer.month].append(place)
    found = []
    for month, places in sorted(groups.items()):
        labels = np.array([float(answers[place].row.label) for place in places])
        if len(labels) < ROWS_MIN or labels.min() == labels.max():
            continue
        live = np.array([[answers[place].score] for place in places])
        static = np.array([[static_scores[place]] for place in places])
        found.append(
            Month(
                month=month,
                rows=len(places),
                base_rate=float(labels.mean()),
                versions=tuple(sorted({answers[place].version for place in places})),
                static=evaluate(task, labels, static),
                live=evaluate(task, labels, live),
            )
        )
    return found


def text(story: Story) -> str:
    """The report as text."""
    counts = story.counts
    parts = [
        "What served when, and why",
        history_text(story.history),
        "",
        "Alarms of the monitor",
        *_alarms(story.evidence),
        "",
        "The first model alone (static) beside what answered (live), by month",
        table(
            ("month", "rows", "late", "AUC static", "AUC live", "Brier static", "Brier live", "by"),
            [_month_row(month) for month in story.months],
        ),
        "",
        (
            f"requests sent {counts.requests:,}, failed {counts.failed:,}, "
            f"slowest answer {counts.worst_s * 1000:,.0f} ms"
        ),
        f"rows answered {counts.rows:,}, seen by the monitor {counts.rows_seen:,}",
        (
            f"labels sent {counts.labels_sent:,}, acknowledged {counts.labels_acknowledged:,}, "
            f"joined {counts.labels_joined:,}, waiting for a prediction {counts.labels_waiting:,}"
        ),
        "",
        *(
            f"{'kept   ' if step.kept else 'BROKEN '} {step.promise}: {step.detail}"
            for step in story.steps
        ),
        "",
        f"{story.wall_s:.0f} s in all",
    ]
    return "\n".join(parts)


def _alarms(evidence: Sequence[tuple[str, Alarm]]) -> list[str]:
    """Alarms in words, but those on features that moved as numbers."""
    moved = Counter(alarm.feature for _, alarm in evidence if alarm.kind == "feature drift")
    lines = [f"{date}  {alarm.reason}" for date, alarm in evidence if alarm.kind != "feature drift"]
    if moved:
        listed = ", ".join(f"{name} {count}" for name, count in moved.most_common())
        lines.append(f"features that moved, and under how many champions: {listed}")
    return lines or ["none"]


def _month_row(month: Month) -> tuple[str, ...]:
    return (
        month.month,
        f"{month.rows:,}",
        f"{month.base_rate:.1%}",
        f"{month.static['auc']:.3f}",
        f"{month.live['auc']:.3f}",
        f"{month.static['brier']:.4f}",
        f"{month.live['brier']:.4f}",
        ", ".join(f"v{number}" for number in month.versions),
    )


def page(story: Story) -> str:
    """The report as one HTML page: figures first, then the tables."""
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.09,
        subplot_titles=("AUC by month (higher is better)", "Brier by month (lower is better)"),
    )
    months = [month.month for month in story.months]
    for line, metric in enumerate(("auc", "brier"), start=1):
        for name, colour in (("static", "#999999"), ("live", "#1f77b4")):
            figure.add_trace(
                go.Scatter(
                    x=months,
                    y=[getattr(month, name)[metric] for month in story.months],
                    name={"static": "first model alone", "live": "live"}[name],
                    mode="lines+markers",
                    line={"color": colour},
                    showlegend=line == 1,
                ),
                row=line,
                col=1,
            )
    figure.update_layout(height=620, template="plotly_white", margin={"t": 60})
    timeline = _timeline(story.history)
    counts = story.counts
    steps = "".join(
        f"<tr><td>{'kept' if step.kept else '<b>broken</b>'}</td><td>{html.escape(step.promise)}"
        f"</td><td>{html.escape(step.detail)}</td></tr>"
        for step in story.steps
    )
    alarms = (
        "".join(f"<li>{date}: {html.escape(alarm.reason)}</li>" for date, alarm in story.evidence)
        or "<li>none</li>"
    )
    history = "".join(
        f"<tr><td>{entry.sequence}</td><td>{moment(entry.event_s)}</td><td>{entry.action}</td>"
        f"<td>{html.escape(entry.reason)}</td></tr>"
        for entry in story.history
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{html.escape(story.model)}: a year replayed</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}td,th{{padding:.25rem .6rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}}</style>
<h1>{html.escape(story.model)}: a year replayed</h1>
<p>{counts.requests:,} requests, {counts.failed:,} failed; {counts.labels_acknowledged:,} labels
acknowledged, {counts.labels_joined:,} joined; {story.wall_s:.0f} s.</p>
{figure.to_html(full_html=False, include_plotlyjs=True)}
<h2>Who served</h2>{timeline.to_html(full_html=False, include_plotlyjs=False)}
<h2>Promises</h2><table>{steps}</table>
<h2>Alarms</h2><ul>{alarms}</ul>
<h2>History</h2><table><tr><th>#</th><th>event time</th><th>action</th><th>reason</th></tr>{history}
</table></html>"""


def _timeline(history: Iterable[Entry]) -> Any:
    """The champion over event time, with the steps of each challenger."""
    entries = [entry for entry in history if entry.event_s]
    figure = go.Figure()
    times = [moment(entry.event_s) for entry in entries]
    figure.add_trace(
        go.Scatter(
            x=times,
            y=[entry.state.champion for entry in entries],
            name="champion",
            mode="lines+markers",
            line={"shape": "hv", "color": "#1f77b4"},
            text=[f"{entry.action}: {entry.reason}" for entry in entries],
        )
    )
    tried = [entry for entry in entries if entry.state.challenger is not None]
    figure.add_trace(
        go.Scatter(
            x=[moment(entry.event_s) for entry in tried],
            y=[entry.state.challenger for entry in tried],
            name="challenger",
            mode="markers",
            marker={"color": "#ff7f0e", "size": 9},
            text=[f"{entry.action} {entry.state.share:.0%}" for entry in tried],
        )
    )
    figure.update_layout(
        height=300, template="plotly_white", yaxis={"title": "version", "dtick": 1}
    )
    return figure
