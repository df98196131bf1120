"""The task of `make bench-train`: a plain network and made-up rows, the same for every peer.

27 columns: 20 numbers and 7 categories of 10 to 1,100 codes, embedded in 48 values. Then three
hidden layers of 256 with ReLU and one output, squared error: 171,265 weights and 148,736
multiplications a row forward. No dropout: random bits are made so differently that they would be
compared instead.
"""

import json
import os
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, BATCH_ROWS = 131_072, 1024
NUMBERS = 20
LEVELS, WIDTHS = (10, 30, 100, 200, 500, 800, 1100), (4, 4, 8, 8, 8, 8, 8)
LAYERS = (NUMBERS + sum(WIDTHS), 256, 256, 256, 1)
FLOPS_A_ROW = 2 * 3 * sum(low * high for low, high in pairwise(LAYERS))
"""Of the products forward, for the weights' gradients and for the inputs' gradients."""


def rows(count: int = ROWS) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Numbers [rows, 20] float32, codes [rows, 7] int32 and labels [rows] float32."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(count, NUMBERS)).astype(np.float32)
    codes = np.stack([rng.integers(0, levels, count) for levels in LEVELS], axis=1)
    labels = np.sin(numbers[:, 0]) + codes[:, 0] / 10 + rng.normal(size=count) / 2
    return numbers, codes.astype(np.int32), labels.astype(np.float32)


def plain(shape: Any, spec: Any) -> Any:
    """The network in Keras, as a family of one's own: `training.family: train_task:plain`."""
    import keras
    from keras import layers

    # peers say it once for all layers; a family says it for those that bear it
    mixed = spec is not None and spec.precision == "bfloat16"
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16") if mixed else None
    numbers = keras.Input((2 * len(shape.edges),), name="numbers")
    codes = keras.Input((len(shape.levels),), dtype="int32", name="categories")
    embedded = [
        layers.Embedding(levels, width)(codes[:, place])
        for place, (levels, width) in enumerate(zip(LEVELS, WIDTHS, strict=True))
    ]
    x = layers.Concatenate()([numbers[:, :NUMBERS], *embedded])
    for units in LAYERS[1:-1]:
        x = layers.Dense(units, activation="relu", dtype=policy)(x)
    last = layers.Dense(LAYERS[-1], dtype="float32")(x)
    return keras.Model({"numbers": numbers, "categories": codes}, last)


class Turns:
    """How a variant, in a process of its own, does a little work and then lets others work.

    It reports each piece of work as a line on standard output and goes on when it reads a line;
    when there is none any more, the process ends. The first piece is warm-up.
    """

    def __init__(self) -> None:
        # what libraries print must not get between the lines
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begin()

    def done(self, rows: int, note: str = "") -> None:
        """Reports `rows` worked on since the last call, and waits for the next turn."""
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        line = {"rows": rows, "cpu_s": cpu_s, "wall_s": wall_s, "note": note}
        print(json.dumps(line), file=self._out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # in the middle of a fit, which has nothing to tidy up
        self._begin()

    def _begin(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()


def pin(core: int) -> None:
    """Keeps the process and the threads that it will have on one core."""
    os.sched_setaffinity(0, {core})
