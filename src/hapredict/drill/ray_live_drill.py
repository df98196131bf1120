"""`hapredict drill`: a drill on the cluster of this home, kept in the model's store."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from hapredict.control.ray_embedded import connect, disconnect, find
from hapredict.control.specs import home_store, read_spec
from hapredict.drill.faults import FAULTS, faults_of
from hapredict.drill.golden import questions
from hapredict.drill.outcome import Drill, budget_left
from hapredict.drill.ray_drill import Plan
from hapredict.drill.ray_drill import drill as run_drill
from hapredict.drill.ray_load import Load
from hapredict.drill.ray_site import RaySite
from hapredict.errors import GateRefused, NotFound
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.sections import DAY_S

KEPT_DAYS = 30.0
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def drills_prefix(model: str) -> str:
    """Where a model's drills lie in the store."""
    return f"drills/{model}/"


def earlier_drills(store: Store, model: str, since_s: float) -> list[Drill]:
    """The drills since then, oldest first. Raises StoreUnavailable."""
    found = []
    for path in sorted(store.list(drills_prefix(model))):
        drill = Drill.from_json(decode_json(store.get(path), path))
        if drill.at_s >= since_s:
            found.append(drill)
    return found


def keep(store: Store, drill: Drill) -> None:
    """Keep a drill. Raises StoreUnavailable."""
    path = f"{drills_prefix(drill.model)}{int(drill.at_s):012d}.json"
    store.put(path, encode_json(drill.to_json()))


def drill_live(
    home: Path,
    model: str,
    level: int | None,
    names: Sequence[str],
    *,
    duration_s: float,
    force: bool,
    tell: Callable[[str], None],
) -> tuple[Drill, list[Drill]]:
    """The drill, and those of the last 30 days before it.

    Raises GateRefused without `force` where others may be served or the error budget is spent,
    NotFound if nothing serves, UnknownName for a fault that does not exist.
    """
    store = home_store(home, model)
    spec = read_spec(store, model)
    if spec.serving.pool is not None:
        raise GateRefused(
            f"{model!r} lives in pool {spec.serving.pool!r}, and a drill would break it for all "
            "models there; drill a model that has replicas of its own"
        )
    level = level or spec.availability.level
    names = list(names) or faults_of(level)
    for name in names:
        FAULTS.find(name)
    objective = spec.availability.objective
    earlier = earlier_drills(store, model, time.time() - KEPT_DAYS * DAY_S)
    cluster = find(home)
    host = urlsplit(cluster.serve_url).hostname
    if host not in LOOPBACK and not force:
        raise GateRefused(
            f"{cluster.serve_url} may serve others; a drill breaks it: say --yes to drill it"
        )
    if budget_left(earlier, objective) <= 0 and not force:
        raise GateRefused(
            f"drills of the last {KEPT_DAYS:g} days have lost more requests than an objective of "
            f"{objective:g} % allows; mend that first, or say --yes"
        )
    entry = Catalog(store, model).latest()
    if entry is None or entry.state.champion is None:
        raise NotFound(f"{model!r} has no champion yet, so there is nothing to drill")
    connect(home)
    sites: list[RaySite] = []

    def site_of(load: Load) -> RaySite:
        sites.append(RaySite(model, load, cluster.temp_dir))
        return sites[-1]

    try:
        done = run_drill(
            model,
            level,
            names,
            f"{cluster.serve_url}/{model}/v1/models/{model}:predict",
            questions(store, entry.state),
            site_of,
            Plan(objective, duration_s=duration_s),
            tell,
        )
    finally:
        for site in sites:
            site.close()
        disconnect()
    keep(store, done)
    return done, earlier
