"""Where a model lives: alone, with actors and replicas of its own, or in a pool with others.

Moving begins the new place before it touches the old one, and the old one answers until somebody
retires it: callers have to change the address, and nobody else knows when they have.
"""

from collections.abc import Callable
from pathlib import Path

from hapredict.control.ray_cluster import controller, stop_model_actors
from hapredict.control.ray_pool_control import pool_controller, pool_of
from hapredict.control.specs import applied_models, home_store
from hapredict.errors import HapredictError, NotFound, Problem, SpecError
from hapredict.monitoring.ray_monitor import POLL_S, start_monitor, stop_monitor
from hapredict.monitoring.ray_pool_monitor import start_pool_monitor
from hapredict.registry.store import Store, decode_json, encode_json, open_store
from hapredict.sections_live import ServingSpec
from hapredict.serving.members import join, leave, member_path, remove
from hapredict.serving.ray_pool import deploy_pool
from hapredict.serving.ray_serve import deploy, is_deployed
from hapredict.serving.ray_serve import remove as remove_replicas
from hapredict.spec import Spec


def enter(store: Store, spec: Spec, home: Path) -> ServingSpec:
    """Claim the model's place; the settings of its replicas.

    Raises SpecError if another model or pool has the name, if the pool is in another store, or if
    another model of the pool says something else of it; then nothing is changed.
    """
    _check_names(spec, store, home)
    pool = spec.serving.pool
    if pool is None:
        return spec.serving
    settings = join(store, pool, spec)
    open_store(str(home / "pools")).put(f"{pool}.json", encode_json({"store": store.url}))
    return settings


def lead(store: Store, spec: Spec, home: Path, former: str | None, *, known: bool) -> None:
    """Start who watches and leads the model, after those who did in its former place are ended.

    `former` is the pool in which it was, `known` whether it was applied before.
    """
    pool, model = spec.serving.pool, spec.name
    if pool is None:
        if former is not None:
            _leave(store, former, model, home)
        start_monitor(model, store.url, poll_s=min(POLL_S, spec.monitoring.report_s))
        controller(model, store.url, home)
        return
    if known and former is None:
        stop_model_actors(model)
        stop_monitor(model)
    elif former is not None and former != pool:
        _leave(store, former, model, home)
    start_pool_monitor(pool, store.url)
    pool_controller(pool, store.url, home).hurry.remote(model)


def _leave(store: Store, pool: str, model: str, home: Path) -> None:
    leave(store, pool, model)
    pool_controller(pool, store.url, home).hurry.remote(model)  # it lets go of the model's lease


def serve_there(
    store: Store,
    spec: Spec,
    settings: ServingSpec,
    home: Path,
    tell: Callable[[str], None],
    *,
    changed: bool,
) -> None:
    """Bring up the replicas that answer for the model. Raises ClusterUnavailable."""
    pool = spec.serving.pool
    if pool is not None:
        if not is_deployed(pool):
            tell(f"starting {settings.min_replicas} replicas of pool {pool}")
        deploy_pool(pool, settings, store, home)
    elif changed or not is_deployed(spec.name):
        tell(f"starting {settings.min_replicas} replicas")
        deploy(spec, store.url, home)


def former_places(store: Store, model: str, home: Path) -> list[str]:
    """Where the model still answers, beside its place of now: paths below Serve's address."""
    pool = pool_of(store, model)
    found = [f"/{model}"] if pool is not None and is_deployed(model) else []
    others = [other for other in _pools(home) if other != pool]
    return found + [
        f"/{other}/{model}" for other in others if store.exists(member_path(other, model))
    ]


def retire(store: Store, model: str, home: Path) -> list[str]:
    """End what answers for the model in its former places; the paths that are gone."""
    places = former_places(store, model, home)
    for place in places:
        other = place.split("/")[1]
        if other == model:
            remove_replicas(model)
        else:
            remove(store, other, model)
    return places


def former_pool(store: Store, model: str) -> tuple[bool, str | None]:
    """Whether the model was applied before, and its pool then."""
    try:
        return True, pool_of(store, model)
    except NotFound:
        return False, None


def _check_names(spec: Spec, store: Store, home: Path) -> None:
    pools, pool = _pools(home), spec.serving.pool
    if spec.name in pools:
        what = f"is the name of a pool, whose URL begins /{spec.name}; name the model otherwise"
        raise SpecError((Problem("name", what),))
    if pool is None:
        return
    if pool == spec.name or (pool in applied_models(home) and _is_alone(home, pool)):
        what = f"is the name of a model, whose URL begins /{pool}; name the pool otherwise"
        raise SpecError((Problem("serving.pool", what),))
    if pools.get(pool, store.url) != store.url:
        what = (
            f"pool {pool!r} has its models in {pools[pool]}, and this model has its own in "
            f"{store.url}; models of a pool share a store"
        )
        raise SpecError((Problem("serving.pool", what),))


def _is_alone(home: Path, model: str) -> bool:
    store = home_store(home, model)
    return pool_of(store, model) is None or is_deployed(model)


def _pools(home: Path) -> dict[str, str]:
    """The stores of the pools that models were applied to from `home`, by the pools' names."""
    found = {}
    for path in sorted((home / "pools").glob("*.json")):
        try:
            found[path.stem] = str(decode_json(path.read_bytes(), str(path))["store"])
        except (OSError, HapredictError, KeyError):
            continue
    return found
