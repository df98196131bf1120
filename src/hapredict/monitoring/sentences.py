"""Alarms in words: what changed, by how much, since when, and what it means for the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

from hapredict.monitoring.effects import moved_bins, population_stability, wasserstein
from hapredict.monitoring.evidence import Change
from hapredict.monitoring.report import INCIDENTS, Alarm, AlarmKind, Moved
from hapredict.monitoring.seasons import total_variation

_HARMS = ("worse", "unknown", "none")
_KINDS: tuple[AlarmKind, ...] = (
    "schema breaks",
    "missing values",
    "unseen values",
    "label delay",
    "concept drift",
    "estimated loss",
    "score drift",
    "feature drift",
)
"""The most telling first: what comes earlier may well be the cause of what comes later."""


def ranked(alarms: Iterable[Alarm]) -> tuple[Alarm, ...]:
    """The alarms in the order in which to look at them, each with its rank."""

    def order(alarm: Alarm) -> tuple[bool, int, int, float]:
        weight = alarm.importance if alarm.feature else 1.0
        return (
            alarm.kind not in INCIDENTS,
            _HARMS.index(alarm.harm),
            _KINDS.index(alarm.kind),
            -alarm.effect * weight,
        )

    found = sorted(alarms, key=order)
    return tuple(replace(alarm, rank=place) for place, alarm in enumerate(found, 1))


def moved_alarm(
    kind: AlarmKind,
    change: Change,
    *,
    feature: str = "",
    importance: float = 0.0,
    labels: Sequence[str],
    places: Sequence[float],
    tolerance: float,
    log_evidence: float,
) -> Alarm:
    """Shares of bins left their reference; of a feature, or of the scores."""
    reference = change.expected
    effect = float(total_variation(change.live, reference))
    bins = moved_bins(labels, reference, change.live)
    what = repr(feature) if feature else "the scores"
    return Alarm(
        kind=kind,
        feature=feature,
        at_s=change.at_s,
        since_s=change.since_s,
        effect=effect,
        log_evidence=log_evidence,
        reason=(
            f"{what} moved by {percent(effect)} over {change.rows} rows since "
            f"{date(change.since_s)} ({percent(tolerance)} is tolerated): {_moves(bins)}"
        ),
        psi=population_stability(reference, change.live, change.rows),
        wasserstein=wasserstein(places, reference, change.live),
        moved=bins,
        importance=importance,
    )


def rate_alarm(
    kind: AlarmKind,
    change: Change,
    reference: float,
    bound: float,
    *,
    feature: str = "",
    importance: float = 0.0,
    log_evidence: float,
    reasons: Mapping[str, int] | None = None,
) -> Alarm:
    """A rate of missing values, of unseen ones or of refused rows rose over its bound.

    `reasons` says how many rows were refused for what.
    """
    live = float(change.live[0])
    since = f"{change.rows} rows since {date(change.since_s)}"
    usual = f"{percent(reference)} is usual, up to {percent(bound)} is tolerated"
    match kind:
        case "missing values":
            said, bin_ = f"{feature!r} is missing in {percent(live)} of {since}", "missing"
        case "unseen values":
            said = f"{feature!r} has values that were never learned in {percent(live)} of {since}"
            bin_ = "unseen"
        case _:
            said, bin_ = f"{percent(live)} of {since} did not fit the schema", "refused"
            usual = f"up to {percent(bound)} is tolerated"
    if reasons:
        most = sorted(reasons.items(), key=lambda one: -one[1])[:3]
        usual += "; " + ", ".join(f"{name}: {rows}" for name, rows in most)
    return Alarm(
        kind=kind,
        feature=feature,
        at_s=change.at_s,
        since_s=change.since_s,
        effect=live - reference,
        log_evidence=log_evidence,
        reason=f"{said} ({usual})",
        moved=(Moved(bin_, reference, live),),
        importance=importance,
    )


def loss_alarm(
    change: Change,
    baseline: float,
    bound: float,
    *,
    version: int,
    log_evidence: float,
    slice_: str = "",
) -> Alarm:
    """The mean loss of labelled rows rose over its bound, of all or of one slice."""
    live = float(change.live[0])
    where = f" where {slice_}" if slice_ else ""
    return Alarm(
        kind="concept drift",
        feature="",
        at_s=change.at_s,
        since_s=change.since_s,
        effect=live - baseline,
        log_evidence=log_evidence,
        reason=(
            f"the mean loss of v{version}{where} rose from {baseline:.3f} to {live:.3f} over "
            f"{change.rows} labels since {date(change.since_s)} (up to {bound:.3f} is tolerated)"
        ),
        slice=slice_,
        harm="worse",
        labels=change.rows,
        loss_measured=live,
    )


def estimate_alarm(
    change: Change, baseline: float, bound: float, *, version: int, log_evidence: float
) -> Alarm:
    """The mean loss that the scores let expect rose over its bound."""
    live = float(change.live[0])
    return Alarm(
        kind="estimated loss",
        feature="",
        at_s=change.at_s,
        since_s=change.since_s,
        effect=live - baseline,
        log_evidence=log_evidence,
        reason=(
            f"the scores of v{version} let expect a mean loss of {live:.3f} after {baseline:.3f}, "
            f"over {change.rows} rows since {date(change.since_s)} (up to {bound:.3f} is "
            "tolerated); labels will tell, for what a score means may have changed too"
        ),
        harm="worse",
        loss_estimated=live,
    )


def with_worth(alarm: Alarm) -> Alarm:
    """The alarm, saying in its reason whether the model became worse."""
    if alarm.kind == "concept drift" or (alarm.kind == "estimated loss" and not alarm.labels):
        return alarm
    if alarm.labels and alarm.loss_measured is not None:
        seen = f"a mean loss of {alarm.loss_measured:.3f} over {alarm.labels} labels"
    elif alarm.loss_estimated is not None:
        seen = f"an estimated loss of {alarm.loss_estimated:.3f}, without labels"
    else:
        return alarm
    told = {
        "worse": "the model became worse since",
        "none": "the model did not become worse since",
        "unknown": "whether the model became worse since cannot be told yet",
    }[alarm.harm]
    return replace(alarm, reason=f"{alarm.reason}; {told} ({seen})")


def score_labels(edges: Sequence[float]) -> tuple[str, ...]:
    """A readable name for each bin of scores."""
    texts = [f"{edge:.3g}" for edge in edges]
    if not texts:
        return ("any score",)
    between = (f"{low} to {high}" for low, high in pairwise(texts))
    return (f"below {texts[0]}", *between, f"{texts[-1]} and above")


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def date(at_s: float) -> str:
    """A day, UTC."""
    try:
        return f"{datetime.fromtimestamp(at_s, tz=UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):  # a caller's event time far outside any calendar
        return f"second {at_s:g}"


def _moves(bins: Iterable[Moved]) -> str:
    return ", ".join(
        f"{one.bin} {'rose' if one.now > one.before else 'fell'} from "
        f"{percent(one.before)} to {percent(one.now)}"
        for one in bins
    )
