"""A training on request, waited for: what `jobs/train.py` does.

The wish is written to the store and the controller grants it in its own time; whoever asked only
reads along in the catalog and in the run's record, and may leave at any moment.
"""

import time

from hapredict.control import runs
from hapredict.control.ray_apply import LOOK_S, Tell
from hapredict.control.ray_pool_control import controller_reason, controller_status
from hapredict.control.specs import latest_spec
from hapredict.errors import GateRefused, NotFound, TimedOut, TrainingFailed
from hapredict.registry.catalog import Catalog, Entry
from hapredict.registry.store import Store
from hapredict.training.metrics import summary


def retrain(store: Store, model: str, reason: str, tell: Tell, *, wait_s: float) -> runs.Record:
    """Ask for a training and wait until it ended with a model that passed its gates.

    The model is a challenger then, and still has to earn its place. Raises GateRefused with the
    verdict if a gate forbids it, TrainingFailed if no model came of it or control is paused,
    TimedOut after `wait_s` (the training goes on), NotFound if the model was never applied.
    """
    deadline_s = time.monotonic() + wait_s
    number = latest_spec(store, model)
    if not number:
        raise NotFound(f"no model {model!r} was ever applied to {store.url}; apply its spec first")
    controller_status(store, model)
    catalog = Catalog(store, model)
    before = catalog.latest()
    _check_not_paused(before, model)
    runs.request_retrain(store, model, reason)
    tell(f"asked for a training of {model!r} by spec {number}, the one applied last", None)
    seen = before.sequence if before else 0
    try:
        return _waited(store, model, reason, tell, seen, deadline_s)
    except KeyboardInterrupt:
        cancel(store, model, reason)
        raise


def cancel(store: Store, model: str, reason: str) -> str:
    """Have the training of a model end, or the wish for one; "" if there is neither.

    Answers what was cancelled. Checkpoints stay: a training of the same rows by the same spec goes
    on from them.
    """
    wished = store.exists(runs.retrain_path(model))
    if wished:
        runs.withdraw_retrain(store, model)
    entry = Catalog(store, model).latest()
    run = entry.state.training if entry is not None else ""
    if run:
        runs.request_cancel(store, model, run, reason)
    return run or ("the wish for a training" if wished else "")


def _waited(
    store: Store, model: str, reason: str, tell: Tell, seen: int, deadline_s: float
) -> runs.Record:
    catalog, began = Catalog(store, model), ""
    while True:
        for entry in catalog.entries(seen):
            seen = entry.sequence
            if entry.action == "Train":
                began = entry.state.training
                if reason in entry.reason:
                    return _ended(store, catalog, model, began, tell, deadline_s)
        # begun for somebody else at the same time, and it took the wish with it
        if began and not store.exists(runs.retrain_path(model)):
            return _ended(store, catalog, model, began, tell, deadline_s)
        _check_not_paused(catalog.latest(), model)
        why = controller_reason(store, model)
        tell(why, None)
        if time.monotonic() > deadline_s:
            raise TimedOut(f"the training has not begun yet: {why}; the wish stays")
        time.sleep(LOOK_S)


def _ended(
    store: Store, catalog: Catalog, model: str, run: str, tell: Tell, deadline_s: float
) -> runs.Record:
    while True:
        # in this order: control ends a run only after its record is final
        entry, record = catalog.latest(), runs.noted(store, model, run)
        if record is not None and record.state == "finished":
            return _judged(record, tell)
        if record is not None and record.state == "failed" and not record.retry:
            raise TrainingFailed(f"{run} failed: {record.detail}")
        if entry is not None and entry.state.training != run:
            raise TrainingFailed(f"{run} was ended: {entry.reason}")
        tell(record.detail if record else f"{run} begins", record)
        if time.monotonic() > deadline_s:
            raise TimedOut(f"{run} has not ended yet; it goes on alone")
        time.sleep(LOOK_S)


def _judged(record: runs.Record, tell: Tell) -> runs.Record:
    if record.version is None or record.verdict is None:
        raise TrainingFailed(f"{record.run} ended without a model that was judged")
    verdict = record.verdict
    if not verdict.passed:
        tell(f"{record.run} ended: {summary(record.version.metrics)}", record)
        need = f" (need {verdict.need})" if verdict.need is not None else ""
        raise GateRefused(f"{record.run} is refused: {verdict.outcome}{need}: {verdict.reason}")
    return record


def _check_not_paused(entry: Entry | None, model: str) -> None:
    if entry is not None and entry.state.paused:
        raise TrainingFailed(
            f"control of {model!r} is paused ({entry.state.paused}) and starts no training; "
            f"`hapredict resume {model}` lifts it"
        )
