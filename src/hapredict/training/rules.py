"""What follows from the data where the spec says `auto`: batch, step and number of passes.

Measured, not derived: see docs/benchmarks.md, "Time to quality".
"""

from collections.abc import Sequence
from math import ceil, inf, isfinite, log2, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.sections import TrainingSpec
from hapredict.training.fitted import hash_of

STEPS_AN_EPOCH = 100
BATCH_MIN, BATCH_MAX = 128, 2048
STEPS = 2500
EPOCHS_MIN, EPOCHS_MAX = 8, 60
RATE, RATE_BATCH = 4e-3, 512
MEAN_EPOCHS = 1.0
"""Passes that the mean of the weights reaches back."""
EXPLOSION = 100.0
_WARM_UP = 9.0
"""At step t the mean is over about the last tenth of the t steps, until a pass is less."""


def settle(spec: TrainingSpec, rows: int) -> TrainingSpec:
    """The spec with numbers in place of `auto`, for this many training rows.

    What is said in the spec stays as it is. A step learns more from more rows, though not in
    proportion: its size goes with their square root (Krizhevsky, 2014; Malladi et al., 2022).
    """
    wanted = 2 ** round(log2(max(1.0, rows / STEPS_AN_EPOCH)))
    batch = min(BATCH_MAX, max(BATCH_MIN, wanted))
    if spec.batch_rows != "auto":
        batch = spec.batch_rows
    rate = spec.learning_rate
    if rate == "auto":
        rate = RATE * sqrt(batch / RATE_BATCH)
    epochs = spec.epochs_max
    if epochs == "auto":
        steps = max(1, ceil(rows / batch))
        epochs = min(EPOCHS_MAX, max(EPOCHS_MIN, ceil(STEPS / steps)))
    return spec.model_copy(
        update={"batch_rows": batch, "learning_rate": rate, "epochs_max": epochs}
    )


def mean_shares(steps: NDArray[np.int64], steps_an_epoch: int) -> NDArray[np.float64]:
    """How much of each step's weights goes into the mean of the weights, [steps] from 0 to 1.

    `steps` [steps] are counted from 0. An exponential moving average (Polyak and Juditsky, 1992):
    weights of a step ago count more than those of a pass ago. The first steps are forgotten sooner,
    so that the mean does not lean to the weights from before all learning.
    """
    reach = max(1.0, MEAN_EPOCHS * steps_an_epoch)
    return np.asarray(np.maximum(1 / reach, _WARM_UP / (_WARM_UP + steps)))


NOT_THE_TASK = frozenset(
    {
        "checkpoints_kept",
        "cpus_per_worker",
        "device",
        "memory_bytes_max",
        "parity_max",
        "worker_failures_max",
        "workers",
    }
)
"""Fields of the spec that say how to train, and not what."""


def name_of_task(data_key: str, spec: TrainingSpec) -> str:
    """The same for trainings that would learn the same from the same rows."""
    return f"training-{hash_of([data_key, what_to_learn(spec)])[:24]}"


def what_to_learn(spec: TrainingSpec) -> dict[str, Any]:
    """The fields of the spec that decide the result, as JSON values."""
    return spec.model_dump(mode="json", exclude=set(NOT_THE_TASK))


def explodes(loss: float, before: Sequence[float]) -> bool:
    """Whether an epoch's loss is so far above the lowest one before that it will not come back."""
    return not isfinite(loss) or loss > EXPLOSION * min(before, default=inf)
