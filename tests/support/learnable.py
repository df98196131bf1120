"""Rows with something to learn in them, for the tests that train."""

import numpy as np

from hapredict.sections import TrainingSpec
from hapredict.training.network import Examples, NetworkShape

LEVELS = (5, 40)
"""Codes of the two categories: one small enough for one-hot, one that is embedded."""

SPEC = TrainingSpec(
    hidden=(16,), epochs_max=4, batch_rows=128, learning_rate=2e-3, dropout=0.2, seed=3, workers=1
)


def learnable(task="binary", rows=1000, numbers=3, categories=2, seed=0):
    """A shape and examples whose label depends on the first number and on the categories."""
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(rows, numbers)).astype(np.float32)
    missing = (chance.random((rows, numbers)) < 0.1).astype(np.float32)
    values *= 1 - missing
    levels = LEVELS[:categories]
    codes = chance.integers(0, np.array(levels, dtype=int), (rows, categories)).astype(np.int32)
    signal = np.abs(values[:, 0]) if numbers else np.zeros(rows)
    signal = signal + (codes[:, -1] % 3 if categories else 0)
    signal = signal - signal.mean()
    if task == "regression":
        labels = 500 + 40 * signal + chance.normal(size=rows)
    elif task == "multiclass":
        labels = np.digitize(signal + chance.normal(0, 0.2, rows), [-0.7, 0.7])
    else:
        labels = chance.random(rows) < 1 / (1 + np.exp(-3 * signal))
    labels = labels.astype(np.float32)
    shape = NetworkShape(
        edges=((-2.5, -1.0, -0.3, 0.3, 1.0, 2.5), (-3.0, 3.0), (-1.0, 0.0, 1.5))[:numbers],
        levels=levels,
        outputs=3 if task == "multiclass" else 1,
        task=task,
        names=tuple(f"feature_{place}" for place in range(numbers + categories)),
        label_mean=float(labels.mean()) if task == "regression" else 0.0,
        label_scale=float(labels.std()) if task == "regression" else 1.0,
    )
    return shape, Examples(np.concatenate([values, missing], axis=1), codes, labels)


def split(examples, share=0.8):
    """The first rows to train on and the rest to judge by."""
    cut = int(examples.rows * share)
    return examples.take(slice(0, cut)), examples.take(slice(cut, None))
