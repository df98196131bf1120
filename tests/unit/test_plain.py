"""The guard around plain tests holds."""

import time
from importlib import import_module

import pytest


def test_importing_ray_raises():
    with pytest.raises(ImportError, match="plain test"):
        import ray  # noqa: F401


def test_importing_a_part_of_keras_raises():
    with pytest.raises(ImportError):
        from keras.layers import Dense  # noqa: F401


def test_importing_tensorflow_by_name_raises():
    with pytest.raises(ImportError):
        import_module("tensorflow")


def test_waiting_raises():
    with pytest.raises(AssertionError, match="waited"):
        time.sleep(0)
