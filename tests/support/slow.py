"""Model families that take their time, or too much memory, as long as a test wants them to."""

import os
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from hapredict.training.keras_families import mlp

FOLDER = "HAPREDICT_HOME"
"""Variable of all nodes: the folder in which a test makes the files `hold` and `hungry`."""

STEP_S = 0.06


def _is_there(name):
    return (Path(os.environ.get(FOLDER, "/nowhere")) / name).exists()


class Waiting(keras.layers.Layer):
    """Hands on what it gets; a step takes at least STEP_S while there is a file `hold`."""

    def call(self, x):
        def wait():
            if _is_there("hold"):
                time.sleep(STEP_S)
            return np.float32(0)

        with tf.control_dependencies([tf.numpy_function(wait, [], tf.float32)]):
            return tf.identity(x)


def slow(shape, spec):
    """An mlp that can be held up, so that a fault hits it while it trains."""
    model = mlp(shape, spec)
    return keras.Model(model.input, Waiting()(model.output))


def hungry(shape, spec):
    """An mlp that fits in memory once there is no file `hungry`, which is gone at the first try."""
    if _is_there("hungry"):
        (Path(os.environ[FOLDER]) / "hungry").unlink(missing_ok=True)
        raise MemoryError("no room for 12 GiB")
    return mlp(shape, spec)


def starving(shape, spec):
    """An mlp that never fits."""
    raise MemoryError("no room for 12 GiB")
