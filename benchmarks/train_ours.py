"""hapredict's side of `train_speed.py`, taking turns.

    python benchmarks/train_ours.py NAME CORE [RANK WORKERS]

`fit` is called once and takes a turn an epoch, so that a turn holds all that an epoch costs: the
order of rows, validation, and the checkpoint. The floor is the products of the network's layers
alone, by the same library in one compiled loop: what no way of training can go below.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from train_task import BATCH_ROWS, LAYERS, LEVELS, NUMBERS, ROWS, Turns, pin, rows

EPOCHS = 1000
"""More than there are turns."""


def ours(turns: Turns, *, family: str = "train_task:plain", precision: str = "float32") -> None:
    """`hapredict.training.keras_fit.fit`."""
    from hapredict.sections import TrainingSpec
    from hapredict.training.feed import Resident
    from hapredict.training.keras_fit import fit, use_threads
    from hapredict.training.keras_reduce import shared_memory
    from hapredict.training.network import Examples, NetworkShape

    rank, workers = map(int, sys.argv[3:] or (0, 1))
    use_threads(1, workers)
    # a name that both workers know and no other pair
    meeting = Path(f"/dev/shm/bench-{os.getppid()}-{precision}")  # noqa: S108 - shared on purpose
    numbers, codes, labels = rows()
    examples = Examples(np.concatenate([numbers, 0 * numbers], axis=1), codes, labels)
    edges = np.quantile(numbers, np.linspace(0, 1, 33), axis=0).T
    names = tuple(f"c{place:02}" for place in range(NUMBERS + len(LEVELS)))
    shape = NetworkShape(
        tuple(tuple(map(float, column)) for column in edges), LEVELS, 1, "regression", names
    )
    spec = TrainingSpec(
        family=family,
        precision=precision,
        batch_rows=BATCH_ROWS * workers,
        learning_rate=1e-3,
        epochs_max=EPOCHS,
    )
    fit(
        replace(shape, label_mean=float(labels.mean()), label_scale=float(labels.std())),
        spec,
        Resident(examples, ROWS),
        examples.take(slice(0, BATCH_ROWS)),
        reduce=shared_memory(meeting, rank, workers) if workers > 1 else None,
        rank=rank,
        workers=workers,
        on_epoch=lambda _: turns.done(ROWS),
    )


def floor(turns: Turns, *, precision: str = "float32") -> None:
    """Forward, weights' gradients and inputs' gradients of each layer."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)

    def random(*size: int) -> Any:
        return tf.cast(rng.normal(size=size).astype(np.float32), precision)

    pairs = list(pairwise(LAYERS))
    inputs, slopes = ([random(BATCH_ROWS, pair[end]) for pair in pairs] for end in (0, 1))
    weights = [random(*pair) for pair in pairs]

    @tf.function
    def products(inputs: Any, weights: Any, slopes: Any, steps: Any) -> Any:
        # a value of each product is used, or the compiler would leave it out
        total = tf.zeros((), precision)
        for _ in tf.range(steps):
            for x, w, g in zip(inputs, weights, slopes, strict=True):
                forward, weight = tf.matmul(x, w), tf.matmul(x, g, transpose_a=True)
                back = tf.matmul(g, w, transpose_b=True)
                total += forward[0, 0] + weight[0, 0] + back[0, 0]
        return total

    while True:
        products(inputs, weights, slopes, tf.constant(ROWS // BATCH_ROWS)).numpy()
        turns.done(ROWS)


OURS: dict[str, Callable[[Turns], None]] = {
    "floor": floor,
    "floor-bf16": partial(floor, precision="bfloat16"),
    "hapredict": ours,
    "hapredict-bf16": partial(ours, precision="bfloat16"),
    "mlp": partial(ours, family="mlp"),
    "mlp-bf16": partial(ours, family="mlp", precision="bfloat16"),
}

if __name__ == "__main__":
    pin(int(sys.argv[2]))
    OURS[sys.argv[1]](Turns())
