"""Who serves, by what the catalog says and by which versions could be loaded: a pure decision."""

from collections.abc import Mapping

from hapredict.registry.catalog import CatalogState
from hapredict.sections import DAY_S
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded, why_not_beside
from hapredict.serving.routing import Split
from hapredict.serving.scoring import Routes
from hapredict.spec import Spec

BUCKETS_A_WINDOW = 24
"""Buckets of event time in `monitoring.window_days`: hours, for windows of a day."""


def wanted(state: CatalogState) -> list[int]:
    """The versions that a replica should have loaded."""
    numbers = (state.champion, state.challenger, state.previous)
    return [number for number in numbers if number is not None]


def routes_of(
    model: str,
    state: CatalogState,
    loaded: Mapping[int, Loaded],
    refused: dict[int, str],
    before: Routes | None,
    given: Spec | None,
) -> Routes | None:
    """Who is to serve; None leaves it as it is.

    A challenger that cannot join is added to `refused`, with the reason. Settings are those of
    `given`, or else of the champion's bundle.
    """
    number = state.champion
    if number in refused:
        number = before.split.champion if before is not None else state.previous
    if number is None or number not in loaded:
        return None  # nothing published, or the store kept it back
    champion = loaded[number]
    beside = {n: v for n, v in loaded.items() if not why_not_beside(v, champion)}
    split = Split(number)
    challenger = state.challenger
    if number == state.champion and challenger is not None and challenger in loaded:
        if challenger in beside:
            salt = f"{model}/{challenger}"
            split = Split(number, challenger, state.share, state.stage == "shadow", salt)
        else:
            refused[challenger] = why_not_beside(loaded[challenger], champion)
    watched = number == state.champion and state.stage == "watch"
    serving = (given or champion.spec).serving
    monitoring = (given or champion.spec).monitoring
    return Routes(
        model=model,
        split=split,
        versions=_kept(beside, {number, *wanted(state)}, serving.versions_kept),
        compared=state.previous if watched and state.previous in beside else None,
        rule=Rule.of(serving),
        sticky_key=serving.sticky_key or champion.schema.id,
        on_event_clock=monitoring.clock == "event",
        bucket_s=monitoring.window_days * DAY_S / BUCKETS_A_WINDOW,
    )


def _kept(loaded: Mapping[int, Loaded], needed: set[int], kept: int) -> dict[int, Loaded]:
    """The needed versions, and the newest others up to `kept` in all."""
    spare = sorted(set(loaded) - needed, reverse=True)
    room = max(0, kept - len(needed & set(loaded)))
    return {n: v for n, v in sorted(loaded.items()) if n in needed or n in spare[:room]}
