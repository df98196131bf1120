"""A drill as text, and as one HTML page that needs nothing else."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from hapredict.control.show import moment, table
from hapredict.drill.outcome import (
    Drill,
    Outcome,
    budget_left,
    failures_between_s,
    requests_needed,
)

_COLOURS = {"held": "#2ca02c", "not held": "#d62728", "not enough load to tell": "#ff7f0e"}


def text(drill: Drill, earlier: Sequence[Drill] = ()) -> str:
    """All of it in lines for a terminal; `earlier` are the drills of the model before it."""
    parts = [_faults(drill)]
    if drill.scaling:
        parts.append(_scaling(drill))
    parts += [f"{name}: left out: {why}" for name, why in drill.skipped.items()]
    lost = [f"{one.fault}: {fault}" for one in drill.outcomes for fault in one.faults]
    if lost:
        parts.append("lost requests:\n" + "\n".join(f"  {line}" for line in lost))
    return "\n\n".join([*parts, "\n".join(_sums(drill, earlier))])


def page(drill: Drill, earlier: Sequence[Drill] = ()) -> str:
    """The same with figures."""
    names = [one.fault for one in drill.outcomes]
    figure = go.Figure()
    for name, values in (
        ("before", [one.before.p99_ms for one in drill.outcomes]),
        ("during, slowest", [one.during.worst_ms for one in drill.outcomes]),
        ("after", [one.after.p99_ms for one in drill.outcomes]),
    ):
        figure.add_trace(go.Bar(name=name, x=names, y=values))
    figure.update_layout(
        height=420,
        template="plotly_white",
        yaxis={"type": "log", "title": "ms (99th percentile; slowest)"},
    )
    rows = "".join(
        f"<tr><td>{html.escape(one.fault)}</td>"
        f"<td style='color:{_COLOURS[one.verdict(drill.objective)]}'>"
        f"{one.verdict(drill.objective)}</td>"
        f"<td>{html.escape(one.says)}</td>"
        f"<td>{one.lost:,} of {one.during.requests + one.after.requests:,}</td>"
        f"<td>{_restored(one)}</td><td>{one.detect_s:.1f} s</td><td>{one.gap_s:.2f} s</td></tr>"
        for one in drill.outcomes
    )
    title = f"{html.escape(drill.model)}: level {drill.level} {drill.verdict}"
    sums = "".join(f"<li>{html.escape(line)}</li>" for line in _sums(drill, earlier))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}td,th{{padding:.25rem .6rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}}</style>
<h1>{title}</h1><ul>{sums}</ul>
<table><tr><th>fault</th><th>verdict</th><th>what was done</th><th>lost</th><th>restored in</th>
<th>met for</th><th>longest gap</th></tr>{rows}</table>
{figure.to_html(full_html=False, include_plotlyjs=True)}</html>"""


def _faults(drill: Drill) -> str:
    header = ("fault", "lost", "of", "gap", "met for", "restored", "p99", "slowest", "verdict")
    return table(
        header,
        [
            (
                one.fault,
                f"{one.lost:,}",
                f"{one.during.requests + one.after.requests:,}",
                f"{one.gap_s:.2f} s",
                f"{one.detect_s:.1f} s",
                _restored(one),
                f"{one.before.p99_ms:.0f} -> {one.during.p99_ms:.0f} -> {one.after.p99_ms:.0f} ms",
                f"{max(one.during.worst_ms, one.after.worst_ms) / 1e3:.2f} s",
                one.verdict(drill.objective),
            )
            for one in drill.outcomes
        ],
    )


def _scaling(drill: Drill) -> str:
    first = drill.scaling[0]
    return table(
        ("replicas", "requests/s", "p99", "efficiency"),
        [
            (
                str(one.replicas),
                f"{one.requests_per_s:,.0f}",
                f"{one.p99_ms:.1f} ms",
                f"{one.requests_per_s / first.requests_per_s * first.replicas / one.replicas:.0%}",
            )
            for one in drill.scaling
        ],
    )


def _sums(drill: Drill, earlier: Sequence[Drill]) -> list[str]:
    low, high = drill.interval
    needed = requests_needed(drill.objective)
    told = f"objective {drill.objective:g} %, which takes {needed:,} requests a fault to tell"
    right = f"{drill.requests - drill.lost:,} of {drill.requests:,} answered rightly"
    sure = f"with 95 % confidence {100 * low:.4f} to {100 * high:.4f} %"
    lines = [
        f"level {drill.level}: {drill.verdict} ({told})",
        f"availability: {right}; {sure}",
    ]
    if drill.restore_mean_s is not None:
        lines.append(f"mean time to restore: {drill.restore_mean_s:.1f} s")
    drills = [*earlier, drill]
    between_s = failures_between_s(drills)
    total_h = sum(one.wall_s for one in drills) / 3600
    lines.append(
        f"mean time between failures that callers saw: {between_s / 3600:.2f} h"
        if between_s is not None
        else f"no failure that callers saw in {total_h:.2f} h of drills"
    )
    lines.append(
        f"error budget left after drills: {100 * budget_left(drills, drill.objective):.0f} %"
    )
    lines.append(f"began {moment(drill.at_s)}, took {drill.wall_s:.0f} s")
    return lines


def _restored(one: Outcome) -> str:
    return "no" if one.restore_s is None else f"{one.restore_s:.1f} s"
