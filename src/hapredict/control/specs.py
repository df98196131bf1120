"""Specs in the store, numbered like the catalog: what was asked for, and when it changed."""

from pathlib import Path
from urllib.parse import unquote

from hapredict.errors import Conflict, NotFound
from hapredict.registry.store import Store, decode_json, encode_json, open_store
from hapredict.spec import Spec, build_spec


def store_url(spec: Spec, home: Path) -> str:
    """Where the spec keeps what must survive; a relative path starts at `home`."""
    if spec.store is None:
        return (home / "store").absolute().as_uri()
    if "://" in spec.store:
        return spec.store
    return (home / spec.store).absolute().as_uri()


def train_folder(spec: Spec, home: Path, model: str) -> str:
    """Where Ray Train keeps checkpoints: in the store's folder, reachable from every node like it.

    A plain path where the store is a folder, for a URL would have its letters escaped.
    """
    url = store_url(spec, home)
    if url.startswith("file://"):
        url = unquote(open_store(url).url.removeprefix("file://"))
    return f"{url.rstrip('/')}/train/{model}"


def on_disk(store: Store, path: str) -> str | None:
    """The path of a folder of the store where the store is a folder itself; None elsewhere."""
    if not store.url.startswith("file://"):
        return None
    return f"{unquote(store.url.removeprefix('file://')).rstrip('/')}/{path}"


def write_spec(store: Store, spec: Spec) -> tuple[int, bool]:
    """Store a spec; its number, and whether it differs from the one before.

    Raises StoreUnavailable.
    """
    data = encode_json(spec.model_dump(mode="json"))
    while True:
        number = latest_spec(store, spec.name)
        if number and store.get(_path(spec.name, number)) == data:
            return number, False
        try:
            store.put_new(_path(spec.name, number + 1), data)
        except Conflict:
            continue
        return number + 1, True


def latest_spec(store: Store, model: str) -> int:
    """The number of the newest spec of a model; 0 if there is none."""
    found = store.list(f"specs/{model}")
    return int(found[-1].rpartition("/")[2].removesuffix(".json")) if found else 0


def read_spec(store: Store, model: str, number: int | None = None) -> Spec:
    """A stored spec, the newest without a number. Raises NotFound."""
    number = number or latest_spec(store, model)
    if not number:
        raise NotFound(f"no model {model!r} was ever applied to {store.url}")
    path = _path(model, number)
    return build_spec(decode_json(store.get(path), path))


def url_path(spec: Spec) -> str:
    """Where a model's URLs begin, below Serve's address."""
    return f"{spec.serving.pool}/{spec.name}" if spec.serving.pool else spec.name


def _path(model: str, number: int) -> str:
    return f"specs/{model}/{number:08d}.json"


def remember(home: Path, model: str, url: str) -> None:
    """Note in `home` where the store of an applied model is. Raises StoreUnavailable."""
    # the store's way of writing files: whole or not at all
    open_store(str(home / "models")).put(f"{model}.json", encode_json({"store": url}))


def applied_models(home: Path) -> list[str]:
    """The models that were applied from `home`."""
    return sorted(file.stem for file in (home / "models").glob("*.json"))


def home_store(home: Path, model: str) -> Store:
    """The store of a model that was applied from `home`. Raises NotFound."""
    path = home / "models" / f"{model}.json"
    if not path.exists():
        known = ", ".join(applied_models(home)) or "none; see `hapredict apply`"
        raise NotFound(f"there is no model {model!r}; applied from {home}: {known}")
    return open_store(str(decode_json(path.read_bytes(), str(path))["store"]))
