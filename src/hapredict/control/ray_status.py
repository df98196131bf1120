"""What `hapredict status` and `hapredict check` show: looked up on the live cluster."""

from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from hapredict.control import runs
from hapredict.control.hold_out import check_slices
from hapredict.control.ray_embedded import find
from hapredict.control.ray_pool_control import controller_status
from hapredict.control.show import moment
from hapredict.control.show_monitor import monitor_json
from hapredict.control.specs import home_store, read_spec, url_path
from hapredict.data.ray_dataset import find_files, open_dataset, survey
from hapredict.errors import HapredictError, NotFound
from hapredict.monitoring.ray_pool_monitor import monitor_of
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.catalog import Catalog
from hapredict.serving.decisions import check_costs
from hapredict.serving.ray_serve import replica_states
from hapredict.serving.risk import check_rules
from hapredict.spec import Spec


def status_of(home: Path, model: str) -> dict[str, Any]:
    """What serves, what is watched and what control waits for, as JSON values.

    A part that does not answer is named with its error; the others are shown all the same.
    """
    store = home_store(home, model)
    entry = Catalog(store, model).latest()
    spec = read_spec(store, model)
    pool = spec.serving.pool
    found: dict[str, Any] = {"model": model} if pool is None else {"model": model, "pool": pool}
    try:
        found["url"] = f"{find(home).serve_url}/{url_path(spec)}"
    except NotFound as error:
        found["url"] = str(error)
    if entry is not None:
        state = entry.state
        found["catalog"] = {
            "sequence": entry.sequence,
            "stage": state.stage,
            "champion": state.champion,
            "challenger": state.challenger,
            "previous": state.previous,
            "share": state.share,
            "since": moment(state.stage_since_s),
            "paused": state.paused,
            "frozen": state.frozen,
            "incident": state.incident,
            "training": state.training,
        }
        if state.training:
            record = runs.noted(store, model, state.training)
            if record is not None:
                found["training"] = {
                    "doing": record.detail,
                    "epoch": f"{record.epoch} of {record.epochs}",
                    "restarts": record.restarts,
                }
    found["control"] = _or_error(lambda: controller_status(store, model))
    found["replicas"] = _or_error(lambda: replica_states(pool or model))
    found["monitor"] = _or_error(lambda: _monitor(model, pool))
    return found


def _monitor(model: str, pool: str | None) -> dict[str, Any]:
    report = MonitorReport.from_json(ray.get(monitor_of(model, pool).report.remote(), timeout=10))
    return monitor_json(report)


def _or_error(look: Any) -> Any:
    try:
        return look()
    except (HapredictError, RayError) as error:
        return {"trouble": str(error).splitlines()[0]}


def check_data(spec: Spec, home: Path) -> dict[str, Any]:
    """What training would make of the data, as JSON values.

    Raises DataError, GateRefused if the spec's costs or slices do not fit them, SpecError if its
    alerts do not.
    """
    files = find_files(spec.data, home)
    dataset = open_dataset(files, spec.data)
    found, schema = survey(dataset, spec.data)
    check_costs(spec.serving, schema)
    check_rules(spec.alerts, schema)
    check_slices(spec.monitoring, schema)
    return {
        "name": spec.name,
        "files": len(files),
        "rows": found.rows,
        "task": schema.task,
        "target": schema.target,
        "classes": {name: found.classes.get(name, 0) for name in schema.classes},
        "time": schema.time,
        "features": {column.name: column.kind for column in schema.features},
        "left_out": sorted(
            set(found.sample)
            - {column.name for column in schema.features}
            - {schema.target, schema.time, schema.id}
        ),
    }
