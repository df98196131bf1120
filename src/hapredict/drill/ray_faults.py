"""Faults on a live cluster: processes of ours, ended by pid, without a chance to say goodbye."""

import contextlib
import os
import signal
import time
from typing import Any

import psutil
from ray import serve

from hapredict.errors import ClusterUnavailable
from hapredict.serving.ray_serve import replica_states


def replica_pid(model: str) -> int:
    """The process of one of the model's replicas."""
    handle: Any = serve.get_app_handle(model)
    return int(handle.detail.remote().result(timeout_s=30)["pid"])


def kill_replica(model: str) -> int:
    """SIGKILL one replica; its pid. Raises ClusterUnavailable if it is not a process here."""
    pid = replica_pid(model)
    if not psutil.pid_exists(pid):
        raise ClusterUnavailable(f"replica process {pid} of {model!r} is on another machine")
    os.kill(pid, signal.SIGKILL)
    return pid


def kill(pid: int) -> bool:
    """SIGKILL a process; False if it had ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def wait_for_replicas(model: str, wanted: int, wait_s: float) -> float:
    """Seconds until `wanted` replicas run again. Raises ClusterUnavailable after `wait_s`."""
    began_s = time.monotonic()
    while replica_states(model).get("RUNNING", 0) < wanted:
        if time.monotonic() - began_s > wait_s:
            raise ClusterUnavailable(f"{model!r} has fewer than {wanted} replicas after {wait_s} s")
        time.sleep(0.1)
    return time.monotonic() - began_s
