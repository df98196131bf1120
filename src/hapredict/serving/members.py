"""Who is in a pool, and what its models say of it: small objects in the store, one a model.

    pools/<pool>/models/<model>.json     its spec
    pools/<pool>/settings/<model>.json   what its spec says of the pool, where it says anything

Each model writes its own, so that a thousand can be applied side by side.
"""

from collections.abc import Mapping
from typing import Any

from hapredict.errors import NotFound, Problem, SpecError
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.sections_live import ServingSpec
from hapredict.spec import Spec, build_spec

POOLED = (
    "min_replicas",
    "max_replicas",
    "target_ongoing_requests",
    "target_utilization",
    "upscale_delay_s",
    "downscale_delay_s",
    "look_back_period_s",
    "num_cpus",
    "data_plane",
    "catalog_poll_s",
    "pool_memory_mb",
)
"""Fields of `serving` that are the pool's where there is one."""


def join(store: Store, pool: str, spec: Spec) -> ServingSpec:
    """Make a model one of the pool's, by its spec of now; the pool's settings.

    Raises SpecError if what the spec says of the pool and what another model says differ; then
    nothing is changed. StoreUnavailable.
    """
    said = {name: getattr(spec.serving, name) for name in POOLED if _says(spec.serving, name)}
    others = {model: what for model, what in sayings(store, pool).items() if model != spec.name}
    settings = settle(pool, {**others, spec.name: said}, spec.name)
    path = _path(pool, "settings", spec.name)
    if said:
        store.put(path, encode_json(said))
        try:  # somebody may have said something else at the same time
            settings = settle(pool, sayings(store, pool), spec.name)
        except SpecError:
            store.delete(path)
            raise
    else:
        store.delete(path)
    store.put(member_path(pool, spec.name), encode_json({"spec": spec.model_dump(mode="json")}))
    return settings


def leave(store: Store, pool: str, model: str) -> None:
    """The model has its place elsewhere: it says nothing of the pool, which answers it still."""
    store.delete(_path(pool, "settings", model))


def remove(store: Store, pool: str, model: str) -> None:
    """The pool knows the model no more."""
    store.delete(_path(pool, "settings", model))
    store.delete(member_path(pool, model))


def members(store: Store, pool: str) -> tuple[str, ...]:
    """The names of all models that a pool answers. Raises StoreUnavailable."""
    found = store.list(f"pools/{pool}/models")
    return tuple(path.rpartition("/")[2].removesuffix(".json") for path in found)


def member_path(pool: str, model: str) -> str:
    """Where a model's part in a pool is written."""
    return _path(pool, "models", model)


def read_member(data: bytes, where: str) -> Spec:
    """The spec that `join` wrote. Raises CorruptBundle, SpecError."""
    return build_spec(decode_json(data, where)["spec"])


def sayings(store: Store, pool: str) -> dict[str, dict[str, Any]]:
    """What each model says of the pool, of those that say anything."""
    found = {}
    for path in store.list(f"pools/{pool}/settings"):
        model = path.rpartition("/")[2].removesuffix(".json")
        try:
            found[model] = dict(decode_json(store.get(path), path))
        except NotFound:  # withdrawn meanwhile
            continue
    return found


def settle(pool: str, said: Mapping[str, Mapping[str, Any]], newest: str) -> ServingSpec:
    """The settings of a pool from what its models say of it; the rest are the defaults.

    Raises SpecError that names each model which says something else than `newest` does.
    """
    settings: dict[str, tuple[str, Any]] = {}
    problems = []
    for model in sorted(said, key=lambda model: (model != newest, model)):
        for name, value in said[model].items():
            first, settled = settings.setdefault(name, (model, value))
            if settled != value:
                problems.append(
                    Problem(
                        f"serving.{name}",
                        f"is {settled!r} in the spec of {first!r} and {value!r} in that of "
                        f"{model!r}, and both are in pool {pool!r}; a pool has one value: say it "
                        "in one spec, or the same in all",
                    )
                )
    if problems:
        raise SpecError(tuple(problems[:20]))
    try:
        return ServingSpec(**{name: value for name, (_, value) in settings.items()})
    except ValueError as error:
        told = str(error).splitlines()
        raise SpecError((Problem(f"pool {pool}", "; ".join(told[:3])),)) from None


def _says(serving: ServingSpec, name: str) -> bool:
    return name in serving.model_fields_set


def _path(pool: str, what: str, model: str) -> str:
    return f"pools/{pool}/{what}/{model}.json"
