"""One start of the workers by Ray Train, until they are done, one of them is lost, or we stop them.

Ray Train is asked for no more than that: it starts the group, watches it and ends it. Starting
again is up to the caller, who knows what is free now and what was learned from the last fault. What
Ray Train does besides is left out where it costs seconds of each start: processes that watch over
its controller, ask for signs of preemption and hand out data sets, and polls two seconds apart.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray._raylet import PlacementGroupID
from ray.train.backend import BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from hapredict.training.ray_checkpoints import absolute
from hapredict.training.ray_nodes import NODE_ID_LABEL
from hapredict.training.scale import Group

POLL_S = 0.1
_ENDED_S = 5.0
"""How long the workers of a start may take to be gone."""


class Stopped(Exception):
    """The caller's `stop` gave a reason to end the workers."""


@dataclass(frozen=True, slots=True)
class Start:
    """What Ray Train needs to start the workers."""

    run: str
    number: int
    group: Group
    asked_for: int
    """Workers that a cluster which grows by itself should have room for."""
    avoid: tuple[str, ...]
    """Nodes that no worker may be on."""
    storage_path: str
    room_s: float
    """How long to wait for room."""


def run_start(
    start: Start,
    work: Callable[[dict[str, Any]], Any],
    told: dict[str, Any],
    backend: BackendConfig,
    stop: Callable[[], str],
) -> Any:
    """What the worker of rank 0 returned.

    `stop` is asked ten times a second; once it answers with a reason the workers are ended and
    Stopped is raised. Raises RayActorError if Ray Train's controller died, and
    ray.train.TrainingFailedError if a worker died or raised, or if there was no room in time. The
    workers are gone in any case.
    """
    group = start.group
    trainer = _Trainer(
        start,
        stop,
        train_loop_per_worker=work,
        train_loop_config=told,
        backend_config=backend,
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.workers,
            use_gpu=group.gpu,
            resources_per_worker=group.resources,
            placement_strategy="STRICT_SPREAD" if group.one_a_node else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            name=start.run,
            storage_path=absolute(start.storage_path),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        return trainer.fit().return_value
    finally:
        remove_groups(start.run)


def remove_groups(run: str) -> None:
    """End the workers of all earlier starts of a run, whoever started them, and free their room."""
    deadline_s = time.monotonic() + _ENDED_S
    while (left := _groups(run)) and time.monotonic() < deadline_s:
        for key in left:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))
        time.sleep(POLL_S / 2)


def _groups(run: str) -> list[str]:
    """Ids of the places that workers of the run have or wait for, whatever job they belong to."""
    return [
        one["placement_group_id"]
        for one in placement_group_table().values()
        if one["name"].startswith(f"{run}#") and one["state"] != "REMOVED"
    ]


class _Trainer(DataParallelTrainer):
    def __init__(self, start: Start, stop: Callable[[], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._start, self._stop = start, stop

    def _create_default_callbacks(self) -> list[Any]:
        # each has a process of its own: for what `remove_groups` does, and for Ray Data
        unused = (PlacementGroupCleanerCallback, DatasetsCallback)
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, unused)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        here = ray.get_runtime_context().get_node_id()
        arguments["scaling_policy"] = _Fixed(self.scaling_config, self._start.asked_for)
        controller = _Controller.options(label_selector={NODE_ID_LABEL: here}).remote(
            self._start, **arguments
        )
        try:
            ended = controller.run.remote()
            while not ray.wait([ended], timeout=POLL_S)[0]:
                if reason := self._stop():
                    raise Stopped(reason)
            ray.get(ended)
            return ray.get(controller.get_result.remote())
        finally:
            ray.kill(controller)


class _Fixed(FixedScalingPolicy):
    """As many workers as it is told, without asking an autoscaler for what is there."""

    def __init__(self, scaling_config: Any, asked_for: int) -> None:
        super().__init__(scaling_config)
        self._asked_for = asked_for

    def _get_num_workers_for_resource_request(self) -> int:
        return self._asked_for

    def after_controller_start(self, train_run_context: Any) -> None:
        if self._asked_for > self.scaling_config.num_workers:
            super().after_controller_start(train_run_context)

    def _maybe_send_resource_request(self) -> None:
        if self._coordinator_client is not None:
            super()._maybe_send_resource_request()


class _Group(WorkerGroup):
    """A worker group whose place in the cluster has a name, so that it can be found and removed."""

    start: Start

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        self._worker_group_start_timeout_s = self.start.room_s
        super()._start_impl(worker_group_state_builder)

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:
        start, count = self.start, worker_group_context.num_workers
        apart = {NODE_ID_LABEL: f"!in({','.join(start.avoid)})"} if start.avoid else {}
        return DefaultPlacementGroupHandle(
            placement_group(
                bundles=[worker_group_context.resources_per_worker] * count,
                strategy=scaling_config.placement_strategy,
                name=f"{start.run}#{start.number}-{os.getpid()}",
                bundle_label_selector=[apart] * count if apart else None,
            )
        )


@ray.remote(num_cpus=0)
class _Controller(TrainController):
    worker_group_cls = _Group

    def __init__(self, start: Start, **arguments: Any) -> None:
        _Group.start = start
        # Ray Train lets everything at level INFO through to the caller's terminal
        logging.getLogger().setLevel(logging.WARNING)
        super().__init__(**arguments)
        self._health_check_interval_s = POLL_S
        callbacks = self._worker_group_callbacks_to_propagate
        callbacks[:] = [one for one in callbacks if not isinstance(one, PreemptionCallback)]
