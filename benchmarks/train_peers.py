"""One peer of `train_speed.py`, taking turns.

    python benchmarks/train_peers.py NAME CORE

Each trains the network of `train_task.py` with Adam on the same rows, in the way its own documents
recommend for speed. Batches are shuffled anew in each epoch.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from train_task import BATCH_ROWS, LAYERS, LEVELS, NUMBERS, ROWS, WIDTHS, Turns, pin, plain, rows

RATE = 1e-3


class _Shape:
    edges, levels = ((0.0, 1.0),) * NUMBERS, LEVELS


def keras_defaults(turns: Turns) -> None:
    """`compile` and `fit` as the tutorials have them: batches of 32."""
    count = 16_384  # a slow one: fewer rows, for a rate
    fit = _keras_fit("float32", count)
    while True:
        fit()
        turns.done(count)


def keras_tuned(turns: Turns, *, precision: str) -> None:
    """`fit` with large batches, and the better of its other settings for speed."""
    settings = [
        {"batch_size": BATCH_ROWS, "jit_compile": jit, "steps_per_execution": steps}
        for jit, steps in ((False, 1), (False, 32), (True, 32))
    ]
    if os.environ.get("KERAS_BACKEND") == "jax":  # always compiles
        settings = settings[-1:]
    sample = 16_384
    took = []
    for setting in settings:
        fit = _keras_fit(precision, sample, **setting)
        fit()
        began = time.process_time()
        fit()
        took.append(time.process_time() - began)
    best = settings[int(np.argmin(took))]
    note = f"steps_per_execution={best['steps_per_execution']}, jit_compile={best['jit_compile']}"
    fit = _keras_fit(precision, ROWS, **best)
    while True:
        fit()
        turns.done(ROWS, note)


def torch_eager(turns: Turns, *, bf16: bool = False, compiled: bool = False) -> None:
    """A loop over batches picked by index from tensors in memory; Adam in one fused call."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(map(nn.Embedding, LEVELS, WIDTHS))
            layers: list[nn.Module] = []
            for low, high in pairwise(LAYERS):
                layers += [nn.Linear(low, high), nn.ReLU()]
            self.layers = nn.Sequential(*layers[:-1])

        def forward(self, numbers: Any, codes: Any) -> Any:
            found = [table(codes[:, place]) for place, table in enumerate(self.tables)]
            return self.layers(torch.cat([numbers, *found], dim=1))[:, 0]

    numbers, codes, labels = map(torch.from_numpy, rows())
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)

    def loss_of(*batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            found = net(*batch[:2])
        return torch.mean((found.float() - batch[2]) ** 2)

    if compiled:
        loss_of = torch.compile(loss_of)
    while True:
        order = torch.randperm(ROWS)
        for start in range(0, ROWS, BATCH_ROWS):
            chosen = order[start : start + BATCH_ROWS]
            optimizer.zero_grad()
            loss_of(numbers[chosen], codes[chosen], labels[chosen]).backward()
            optimizer.step()
        turns.done(ROWS)


def sklearn(turns: Turns) -> None:
    """`MLPRegressor` knows no embeddings: it gets the 68 inputs as ready numbers."""
    from sklearn.neural_network import MLPRegressor

    numbers, _, labels = rows()
    ready = np.random.default_rng(1).normal(size=(ROWS, sum(WIDTHS))).astype(np.float32)
    inputs = np.concatenate([numbers, ready], axis=1)
    net = MLPRegressor(
        hidden_layer_sizes=LAYERS[1:-1], batch_size=BATCH_ROWS, learning_rate_init=RATE
    )
    while True:
        net.partial_fit(inputs, labels)  # one pass
        turns.done(ROWS)


def numpy_floor(turns: Turns) -> None:
    """The three products of each layer, and nothing else."""
    rng = np.random.default_rng(0)
    batch = partial(lambda *size: rng.normal(size=size).astype(np.float32), BATCH_ROWS)
    inputs, slopes = [batch(low) for low in LAYERS[:-1]], [batch(high) for high in LAYERS[1:]]
    weights = [rng.normal(size=pair).astype(np.float32) for pair in pairwise(LAYERS)]
    while True:
        for _ in range(ROWS // BATCH_ROWS):
            for x, w, g in zip(inputs, weights, slopes, strict=True):
                x @ w, x.T @ g, g @ w.T
        turns.done(ROWS)


def _keras_fit(precision: str, count: int, **settings: Any) -> Callable[[], Any]:
    """A fit of one pass."""
    import keras

    keras.mixed_precision.set_global_policy(precision)
    model = plain(_Shape, None)
    batch = {"batch_size": settings.pop("batch_size")} if settings else {}
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss="mse", **settings)
    numbers, codes, labels = rows(count)
    inputs = {"numbers": np.concatenate([numbers, 0 * numbers], axis=1), "categories": codes}
    return lambda: model.fit(inputs, labels, verbose=0, **batch)


PEERS: dict[str, Callable[[Turns], None]] = {
    "keras-defaults": keras_defaults,
    "keras-tuned": partial(keras_tuned, precision="float32"),
    "keras-tuned-bf16": partial(keras_tuned, precision="mixed_bfloat16"),
    "jax": partial(keras_tuned, precision="float32"),
    "jax-bf16": partial(keras_tuned, precision="mixed_bfloat16"),
    "torch": torch_eager,
    "torch-bf16": partial(torch_eager, bf16=True),
    "torch-compile": partial(torch_eager, compiled=True),
    "torch-compile-bf16": partial(torch_eager, compiled=True, bf16=True),
    "sklearn": sklearn,
    "numpy-floor": numpy_floor,
}

if __name__ == "__main__":
    pin(int(sys.argv[2]))
    PEERS[sys.argv[1]](Turns())
