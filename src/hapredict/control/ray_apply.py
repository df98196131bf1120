"""What `hapredict apply` does: a spec becomes a model that is trained, served, watched and led.

Everything is written to the store first and done by detached actors; whoever applies may leave at
any moment and the rest happens all the same. Applying the same spec again changes nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from hapredict.control import runs
from hapredict.control.ray_cluster import controller, controller_status
from hapredict.control.ray_embedded import find
from hapredict.control.specs import remember, store_url, write_spec
from hapredict.errors import ClusterUnavailable, GateRefused, NotFound, TimedOut, TrainingFailed
from hapredict.monitoring.ray_monitor import start_monitor
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog, Entry
from hapredict.registry.store import Store, open_store
from hapredict.serving.ray_serve import deploy, is_deployed, start_serve
from hapredict.spec import Spec

LOOK_S = 0.2
DEFAULT_PORT = 8000

Tell = Callable[[str, runs.Record | None], None]
"""Hears what is going on: a sentence, and the run if there is one."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply came to."""

    model: str
    url: str
    """Where the model answers."""
    entry: Entry
    """The catalog's latest entry."""
    changed: bool
    """Whether the spec differs from the one before."""
    record: runs.Record | None = None
    """The training that was waited for."""


def ingress(home: Path) -> tuple[str, int]:
    """Address and port at which Serve listens."""
    try:
        port = find(home).serve_port
    except NotFound:
        return os.environ.get("HAPREDICT_HTTP_HOST", "0.0.0.0"), DEFAULT_PORT  # noqa: S104
    return "127.0.0.1", port


def apply(spec: Spec, home: Path, tell: Tell, *, wait_s: float) -> Applied:
    """Make it so. Returns when the model answers on every replica.

    Raises TrainingFailed or GateRefused if no first model came of it, DataError as found, TimedOut
    after `wait_s` (everything goes on without us), ClusterUnavailable, StoreUnavailable.
    """
    deadline_s = time.monotonic() + wait_s
    url = store_url(spec, home)
    store = open_store(url)
    number, changed = write_spec(store, spec)
    remember(home, spec.name, url)
    catalog = Catalog(store, spec.name)
    before = catalog.latest()
    if changed and number > 1 and before is not None and before.state.champion is not None:
        _retrain_if_learning_changed(store, spec, before)
    tell(f"spec {number} is stored in {url}", None)
    start_monitor(spec.name, url, poll_s=min(0.5, spec.monitoring.report_s))
    controller(spec.name, url, home)
    host, port = ingress(home)
    start_serve(port, host)
    if changed or not is_deployed(spec.name):
        tell(f"starting {spec.serving.min_replicas} replicas", None)
        deploy(spec, url, home)
    record = _first_model(store, catalog, spec, tell, deadline_s, before)
    _replicas_ready(spec, deadline_s)
    entry = catalog.latest()
    if entry is None:
        raise NotFound(f"the catalog of {spec.name!r} disappeared from {url}")
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    return Applied(spec.name, f"http://{shown}:{port}/{spec.name}", entry, changed, record)


def _retrain_if_learning_changed(store: Store, spec: Spec, entry: Entry) -> None:
    champion = entry.state.champion
    if champion is None:
        return
    old = load(store, spec.name, entry.state.versions[champion].digest).spec
    changed = [
        section
        for section in ("data", "features", "training")
        if getattr(old, section) != getattr(spec, section)
    ]
    if changed:
        runs.request_retrain(store, spec.name, f"the spec changed in {', '.join(changed)}")


def _first_model(
    store: Store,
    catalog: Catalog,
    spec: Spec,
    tell: Tell,
    deadline_s: float,
    before: Entry | None,
) -> runs.Record | None:
    """Wait for a champion; the record of the run that made it, if there was none before."""
    seen, run = before.sequence if before else 0, ""
    while True:
        for entry in catalog.entries(seen):
            seen = entry.sequence
            if entry.action == "RejectRun" and entry.state.champion is None:
                refused = runs.noted(store, spec.name, run)
                kind = TrainingFailed if refused is None or refused.verdict is None else GateRefused
                raise kind(entry.reason)
            run = entry.state.training or run
            if entry.state.champion is not None:
                record = runs.noted(store, spec.name, run) if run and before is None else None
                tell(f"v{entry.state.champion} is champion", record)
                return record
        record = runs.noted(store, spec.name, run) if run else None
        tell(record.detail if record else _leader(spec.name), record)
        _wait(deadline_s, f"the first model of {spec.name!r} is not there yet; it goes on alone")


def _leader(model: str) -> str:
    try:
        return str(controller_status(model)["reason"])
    except (ClusterUnavailable, NotFound) as error:
        return str(error)


def _replicas_ready(spec: Spec, deadline_s: float) -> None:
    handle: Any = serve.get_app_handle(spec.name)
    ready: set[int] = set()
    while len(ready) < spec.serving.min_replicas:
        detail = handle.detail.remote().result(timeout_s=30)
        if detail["ready"]:
            ready.add(detail["pid"])
        _wait(deadline_s, f"the replicas of {spec.name!r} have not loaded the model yet")


def _wait(deadline_s: float, what: str) -> None:
    if time.monotonic() > deadline_s:
        raise TimedOut(what)
    time.sleep(LOOK_S)
