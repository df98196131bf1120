"""The rule of `scaling.py` as Ray Serve's autoscaling policy; it runs in Serve's controller.

Serve keeps the bounds, the delays and the scaling factors, and does what is decided.
"""

from typing import Any

from ray.serve.config import AutoscalingContext, AutoscalingPolicy

from hapredict.sections_live import ServingSpec
from hapredict.serving.scaling import Load, replicas_for

REPORT_S = 2.0
"""How often Serve's controller hears of a replica; Serve's own default is 10."""


class LoadPolicy:
    """Called by Serve's controller for one deployment."""

    def __init__(self, target_ongoing: float, target_utilization: float) -> None:
        self._targets = {
            "target_ongoing": target_ongoing,
            "target_utilization": target_utilization,
        }

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """How many replicas are wanted, and the state to keep: none."""
        told = context.aggregated_metrics or {}
        ongoing, utilization = told.get("ongoing", {}), told.get("utilization", {})
        loads = [Load(ongoing[replica], utilization.get(replica, 0.0)) for replica in ongoing]
        # while none has reported, those that are still to start count as running
        running = context.current_num_replicas if loads else context.target_num_replicas
        return replicas_for(loads, running, **self._targets), {}


def autoscaling(serving: ServingSpec) -> dict[str, Any]:
    """A deployment's `autoscaling_config`."""
    policy = AutoscalingPolicy(
        policy_function=f"{LoadPolicy.__module__}:{LoadPolicy.__name__}",
        policy_kwargs={
            "target_ongoing": serving.target_ongoing_requests,
            "target_utilization": serving.target_utilization,
        },
    )
    return {
        "min_replicas": serving.min_replicas,
        "initial_replicas": serving.min_replicas,
        "max_replicas": serving.max_replicas,
        "target_ongoing_requests": serving.target_ongoing_requests,
        "upscale_delay_s": serving.upscale_delay_s,
        "downscale_delay_s": serving.downscale_delay_s,
        "look_back_period_s": serving.look_back_period_s,
        "metrics_interval_s": min(REPORT_S, serving.look_back_period_s / 3),
        "policy": policy,
    }
