"""What the monitor knows, for people to look at: alarms first, with bars for what moved."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hapredict.control.show import lines, moment, table
from hapredict.monitoring.report import Alarm, MonitorReport

_BAR = 24
_DRIFT_TOLD = 5
_HARM = {
    "worse": "the model became worse",
    "none": "the model did not become worse",
    "unknown": "its effect on the model is not known yet",
}


def monitor_json(report: MonitorReport) -> dict[str, Any]:
    """All that `hapredict status` tells of live traffic, as JSON values."""
    drift = sorted(report.drift, key=lambda one: -one.log_evidence)[:_DRIFT_TOLD]
    return {
        "watermark": moment(report.watermark_s or 0.0),
        "rows": report.rows,
        "rows_refused": dict(report.rows_refused),
        "labels_joined": report.labels_joined,
        "labels_pending": report.labels_pending,
        "labels_unmatched": report.labels_unmatched,
        "labels_late": report.labels_late,
        "label_delay_p50_days": report.label_delay_p50_days,
        "label_delay_p95_days": report.label_delay_p95_days,
        "loss_by_version": {f"v{n}": loss for n, loss in sorted(report.loss_by_version.items())},
        "estimate": asdict(report.estimate) if report.estimate else None,
        "slices": [asdict(found) for found in report.slices],
        "alarms": [_alarm_json(alarm) for alarm in report.alarms],
        "strongest_drift": [
            {"feature": one.feature, "effect": one.effect, "log_evidence": one.log_evidence}
            for one in drift
        ],
        "trouble": report.detail,
    }


def _alarm_json(alarm: Alarm) -> dict[str, Any]:
    told = {"since": moment(alarm.since_s), "at": moment(alarm.at_s), "incident": alarm.incident}
    return {**asdict(alarm), **told}


def status_text(found: Mapping[str, Any]) -> str:
    """The status as text: alarms as people read them, everything else as indented lines."""
    monitor = found.get("monitor")
    if not isinstance(monitor, Mapping) or "alarms" not in monitor:
        return lines(dict(found))
    own = ("alarms", "estimate", "slices", "label_delay_p50_days", "label_delay_p95_days")
    plain = {name: value for name, value in monitor.items() if name not in own}
    parts = [
        lines({**found, "monitor": {**plain, **_in_words(monitor)}}),
        *_slices_text(monitor["slices"]),
        *alarms_text(monitor["alarms"]),
    ]
    return "\n".join(parts)


def alarms_text(alarms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Alarms in the order in which to look at them, each with its reason and the bins that moved.

    `alarms` are those of `monitor_json`.
    """
    if not alarms:
        return ["alarms: none"]
    shown = [f"alarms: {len(alarms)}, the first to look at first"]
    for alarm in alarms:
        about = alarm["feature"] or alarm["slice"]
        marks = [alarm["kind"].upper(), *([about] if about else []), f"since {alarm['since']}"]
        if alarm["incident"]:
            marks.append("broken data")
        if alarm["feature"]:
            marks.append(f"importance {alarm['importance']:.0%}")
        shown += ["", f"  {alarm['rank']}. " + "  ".join(marks)]
        shown += [f"     {alarm['reason']}"]
        if " the model " not in alarm["reason"] and alarm["kind"] != "concept drift":
            shown.append(f"     {_HARM[alarm['harm']]}")
        shown += [f"     {line}" for line in _bins_text(alarm["moved"])]
    return shown


def _bins_text(moved: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        row
        for one in moved
        for row in (
            (one["bin"][:30], "before", bar(one["before"])),
            ("", "now", bar(one["now"])),
        )
    ]
    return table(("", "", ""), rows).split("\n")[1:] if rows else []


def _slices_text(slices: Sequence[Mapping[str, Any]]) -> list[str]:
    if not slices:
        return []
    worst = max(max(one["loss"] or 0.0, one["baseline"]) for one in slices) or 1.0
    rows = [
        (
            one["slice"],
            f"{one['rows']:,}",
            f"{one['labels']:,}",
            "-" if one["loss"] is None else f"{one['loss']:.4f}",
            f"{one['baseline']:.4f}",
            "█" * round(_BAR * (one["loss"] or 0.0) / worst),
        )
        for one in slices
    ]
    header = ("slice", "rows", "labels", "loss", "hold-out", "loss as a bar")
    return ["", table(header, rows), ""]


def _in_words(monitor: Mapping[str, Any]) -> dict[str, Any]:
    half, most = monitor["label_delay_p50_days"], monitor["label_delay_p95_days"]
    told: dict[str, Any] = {
        "label_delay": f"half within {half:.3g} days, 95 % within {most:.3g}"
        if half is not None and most is not None
        else ""
    }
    estimate = monitor["estimate"]
    told["estimated_loss"] = (
        f"{estimate['loss']:.4f} ({estimate['low']:.4f} to {estimate['high']:.4f}; "
        f"{estimate['baseline']:.4f} on the hold-out), without labels, unless what scores mean "
        "has changed"
        if estimate
        else ""
    )
    return told


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar with its figure."""
    full = round(_BAR * min(max(share, 0.0), 1.0))
    digits = 0 if share >= 0.1 else 1
    return f"{'█' * full}{'·' * (_BAR - full)} {100 * share:.{digits}f} %"
