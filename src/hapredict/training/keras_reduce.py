"""Adding up the vectors of workers that share a node, in memory that they share.

TensorFlow's collective sends vectors through sockets even within a node, which costs a quarter of a
step of a small network. Here each worker writes its vector where all can read it, waits until all
have, and sums them in the order of ranks: the same bits everywhere.
"""

import contextlib
import mmap
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hapredict.training.keras_step import Reduce

_LINE = 64
"""Bytes of a processor's cache line; counters in one line would slow each other down."""
_LOOKS = 100
_PAUSE_S = 50e-6


def shared_memory(file: Path, rank: int, workers: int) -> Reduce:
    """How workers of one node add up their vectors; all of them name the same new `file`.

    The file belongs in a file system in memory, and its name is gone once all have opened it. A
    worker that dies leaves the others waiting, so whoever started them must end them.
    """
    meetings: dict[int, _Meeting] = {}

    def add_up(vector: Any) -> Any:
        (size,) = vector.shape
        if size not in meetings:
            name = file.with_name(f"{file.name}-{size}")
            meetings[size] = _Meeting(name, rank, workers, size)
        total = tf.numpy_function(meetings[size].add_up, [vector], tf.float32)
        return tf.ensure_shape(total, [size])

    return add_up


class _Meeting:
    """A counter a worker and two rounds of vectors, in one file.

    Two rounds are enough: nobody begins the next but one before all have begun the next, and so
    have read this one.
    """

    def __init__(self, file: Path, rank: int, workers: int, size: int) -> None:
        self._rank = rank
        self._round = 0
        head = workers * _LINE
        length = head + 2 * workers * size * 4
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, length)
            self._memory = mmap.mmap(handle, length)
        finally:
            os.close(handle)
        self._counters = np.frombuffer(self._memory, np.int64, head // 8)[:: _LINE // 8]
        vectors = np.frombuffer(self._memory, np.float32, offset=head)
        self._vectors = vectors.reshape(2, workers, size)
        self._arrive(1)
        # all have it open: nothing is left behind by workers that are killed
        with contextlib.suppress(FileNotFoundError):
            file.unlink()

    def add_up(self, vector: Any) -> Any:
        """The sum of what all workers bring to this round, float32 [size]."""
        self._round += 1
        place = self._vectors[self._round % 2]
        place[self._rank] = vector
        self._arrive(self._round + 1)
        return place.sum(axis=0)

    def _arrive(self, round_: int) -> None:
        self._counters[self._rank] = round_
        looks = 0
        while int(self._counters.min()) < round_:
            looks += 1
            if looks < _LOOKS:
                os.sched_yield()
            else:
                time.sleep(_PAUSE_S)
