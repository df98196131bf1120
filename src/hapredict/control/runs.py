"""One training on record: what was asked for, how far it is, how it ended.

    runs/<model>/<run>/request.json    written once, when the catalog names the run
    runs/<model>/<run>/record.json     overwritten by whoever runs it

The request pins what the run learns from (the spec and the last journal part of each source), so
that a run which starts again under its name learns the same and ends with the same weights.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hapredict.control.actions import RunStatus
from hapredict.errors import Conflict, NotFound
from hapredict.registry.catalog import Version
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.training.metrics import Verdict

RunState = Literal["running", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is to learn from, and why."""

    model: str
    run: str
    trigger: str
    spec: int
    """Number of the stored spec (`specs/<model>`)."""
    champion: int | None
    """The version that the new one is compared with."""
    positions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Last journal part of each source, as in `MonitorReport`; later ones are not read."""
    event_s: float | None = None
    """The model's clock when the run was asked for."""
    label_delay_days: float | None = None
    """Days within which 95 of 100 labels came; younger live rows are not learned from."""


@dataclass(frozen=True, slots=True)
class Record:
    """How far a run is, or how it ended."""

    run: str
    state: RunState
    detail: str = ""
    """What it is doing now, or why it failed."""
    epoch: int = 0
    epochs: int = 0
    validation_loss: float | None = None
    restarts: int = 0
    """Times that the workers had to be started again."""
    pids: tuple[int, ...] = ()
    """Process ids of the workers, by rank."""
    rows: str = ""
    """How many rows are used, and why the others are not."""
    retry: bool = False
    """Whether the same run may be started again."""
    attempts: int = 0
    """Times that it failed."""
    cancelled: bool = False
    """It failed because somebody wanted it to end."""
    notes: tuple[str, ...] = ()
    """What was out of the ordinary while it trained, in sentences."""
    version: Version | None = None
    verdict: Verdict | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage of the run."""

    def status(self) -> RunStatus:
        """As control sees it."""
        return RunStatus(
            self.run,
            self.state,
            self.detail,
            self.version,
            self.verdict,
            retry=self.retry,
            cancelled=self.cancelled,
        )


def ask(store: Store, request: Request) -> None:
    """Write the request, unless the run has one already: the first one counts."""
    try:
        store.put_new(_path(request.model, request.run, "request"), encode_json(asdict(request)))
    except Conflict:
        return


def asked(store: Store, model: str, run: str) -> Request:
    """The request of a run. Raises NotFound."""
    path = _path(model, run, "request")
    return Request(**decode_json(store.get(path), path))


def note(store: Store, model: str, record: Record) -> None:
    """Overwrite what is on record of a run."""
    store.put(_path(model, record.run, "record"), encode_json(asdict(record)))


def noted(store: Store, model: str, run: str) -> Record | None:
    """What is on record of a run; None before it began."""
    path = _path(model, run, "record")
    try:
        raw: dict[str, Any] = decode_json(store.get(path), path)
    except NotFound:
        return None
    version, verdict = raw.pop("version"), raw.pop("verdict")
    return Record(
        **{**raw, "pids": tuple(raw["pids"]), "notes": tuple(raw.get("notes", ()))},
        version=Version(**version) if version else None,
        verdict=Verdict(**verdict) if verdict else None,
    )


def _path(model: str, run: str, what: str) -> str:
    return f"runs/{model}/{run}/{what}.json"


def retrain_path(model: str) -> str:
    """Where a wish to retrain waits, as JSON with `reason`."""
    return f"requests/{model}/retrain.json"


def wished(store: Store) -> list[str]:
    """The models of which somebody wishes a training."""
    return [path.split("/")[1] for path in store.list("requests") if path.endswith("/retrain.json")]


def request_retrain(store: Store, model: str, reason: str) -> None:
    """Ask the controller for a training; it answers at its next look."""
    store.put(retrain_path(model), encode_json({"reason": reason}))


def withdraw_retrain(store: Store, model: str) -> None:
    """Take the wish back; what has begun goes on."""
    store.delete(retrain_path(model))


def request_cancel(store: Store, model: str, run: str, reason: str) -> None:
    """Ask whoever runs a training to end it; its checkpoints stay."""
    store.put(_path(model, run, "cancel"), encode_json({"reason": reason}))


def cancel_wanted(store: Store, model: str, run: str) -> bool:
    """Whether somebody asked for the end of a run."""
    return store.exists(_path(model, run, "cancel"))
