"""Joins workers that Ray Train started in XGBoost's communicator, where trees add up their sums.

Ray Train has a backend of its own for this, but a run has one backend and needs another to tell
workers their places. They know each other's addresses by then, and that is all it takes: the worker
of rank 0 introduces the others to each other. When a worker dies, the others' sums fail.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hapredict.training.trees_fit import library

_RETRIES = 100
"""Tries to reach rank 0, which may come later; XGBoost pauses between them."""
_PARTING_S = 10


@contextmanager
def joined(addresses: Sequence[str], rank: int) -> Iterator[None]:
    """Within it, `trees_fit.fit` is one of `len(addresses)` workers; alone it needs no others.

    `addresses` are those of all workers by rank, `host:port`; the first one's port must be free.
    Raises TrainingFailed if XGBoost is not installed, and XGBoost's own error if workers are lost.
    """
    xgboost = library()
    if len(addresses) == 1:
        yield
        return
    host, _, port = addresses[0].rpartition(":")
    tracker = None
    if rank == 0:
        tracker = xgboost.tracker.RabitTracker(
            n_workers=len(addresses), host_ip=host, port=int(port), sortby="task"
        )
        tracker.start()
    met = xgboost.collective.CommunicatorContext(
        dmlc_tracker_uri=host,
        dmlc_tracker_port=int(port),
        dmlc_task_id=f"{rank:08}",  # ranks are given in the order of these texts
        dmlc_retry=_RETRIES,
    )
    with xgboost.config_context(verbosity=0), met:
        yield
    if tracker is not None:
        tracker.wait_for(_PARTING_S)


def fit_arguments(threads: int) -> dict[str, Any]:
    """What a worker tells `trees_fit.fit` besides what every fit is told."""
    return {"threads": threads, "clock": time.perf_counter}
