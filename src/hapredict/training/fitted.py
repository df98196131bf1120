"""What a fit hands on: reports of its epochs, the state it resumes from, and the weights it found.

Everything is bytes of named arrays (`.npz` without pickle), so that it crosses processes and
outlives them, and can be read where no Keras is installed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from math import inf
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed

_DIGEST_BYTES = 64


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One finished pass over the training data."""

    epoch: int
    """Passes finished, from 1."""
    loss: float
    """Mean loss of the training rows during the pass."""
    validation_loss: float
    rows_per_s: float
    """Training rows a second, over all workers."""
    checkpoint: bytes | None = None
    """The state after the pass (`State.to_bytes`), from the worker of rank 0."""
    epochs: int = 0
    """Passes planned."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The weights of the best pass, and how they were found."""

    weights: bytes
    """Arrays in the order of the model's weights (`unpack_arrays` reads them)."""
    epochs: int
    best_epoch: int
    history: tuple[EpochReport, ...]
    """One report a pass, without checkpoints."""
    restarts: int = 0
    """Times that the workers had to be started again."""
    notes: tuple[str, ...] = ()
    """What was out of the ordinary, in sentences."""
    workers: tuple[tuple[int, int], ...] = ()
    """Each start of the workers: epochs finished before it, and how many workers it had."""


@dataclass(frozen=True, slots=True)
class State:
    """All that a fit needs to go on as if it had never stopped."""

    run: str
    """Hash of the task: a state resumes the task that wrote it and no other."""
    epoch: int
    """Passes finished."""
    best_epoch: int
    best_loss: float
    history: tuple[EpochReport, ...]
    weights: tuple[NDArray[Any], ...]
    optimizer: tuple[NDArray[Any], ...]
    best: tuple[NDArray[Any], ...]
    """The weights of the pass with the lowest validation loss."""

    @classmethod
    def begin(
        cls, task: Mapping[str, Any], train_rows: int, validation_rows: int, resume: bytes | None
    ) -> "State":
        """Where the training of a task begins, or goes on from the checkpoint `resume`.

        `task` is all that decides the result, as JSON values. Raises TrainingFailed if there is
        nothing to learn from, or if the checkpoint is damaged or another task's.
        """
        if not train_rows or not validation_rows:
            raise TrainingFailed(
                f"{train_rows} rows to train on and {validation_rows} to validate on; "
                "at least one of each is needed"
            )
        run = hash_of({**task, "rows": [train_rows, validation_rows]})
        if resume is None:
            return cls(run, 0, 0, inf, (), (), (), ())
        state = cls.from_bytes(resume)
        if state.run != run:
            raise TrainingFailed(
                "the checkpoint belongs to a training with another shape, spec or number of rows; "
                "start this one under a new run name"
            )
        return state

    def to_bytes(self) -> bytes:
        """The state with a hash in front of it, so that damage is seen."""
        head = {
            "run": self.run,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "history": [_line(report) for report in self.history],
            "lengths": [len(self.weights), len(self.optimizer), len(self.best)],
        }
        text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        body = pack_arrays((text, *self.weights, *self.optimizer, *self.best))
        return hashlib.sha256(body).hexdigest().encode() + body

    @classmethod
    def from_bytes(cls, raw: bytes) -> "State":
        """The state that `to_bytes` wrote. Raises TrainingFailed if the bytes are damaged."""
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise TrainingFailed(
                f"a checkpoint of {len(raw)} bytes is damaged: its hash differs from the one "
                "written; start the training under a new run name"
            )
        text, *arrays = unpack_arrays(body)
        head = json.loads(text.tobytes())
        weights, optimizer, _ = head.pop("lengths")
        head["history"] = tuple(EpochReport(**line) for line in head["history"])
        return cls(
            **head,
            weights=tuple(arrays[:weights]),
            optimizer=tuple(arrays[weights : weights + optimizer]),
            best=tuple(arrays[weights + optimizer :]),
        )

    def fitted(self, restarts: int = 0) -> Fitted:
        """What a fit that stops here has found."""
        return Fitted(pack_arrays(self.best), self.epoch, self.best_epoch, self.history, restarts)


def hash_of(told: Any) -> str:
    """The SHA-256 of JSON values, in hex; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def pack_arrays(arrays: Sequence[NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an `.npz` file; equal arrays give equal bytes."""
    buffer = BytesIO()
    named: dict[str, Any] = {f"{place:06d}": array for place, array in enumerate(arrays)}
    np.savez(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def unpack_arrays(raw: bytes) -> tuple[NDArray[Any], ...]:
    """The arrays that `pack_arrays` wrote, in order. Raises TrainingFailed if it did not."""
    try:
        with np.load(BytesIO(raw), allow_pickle=False) as file:
            return tuple(file[name] for name in sorted(file.files))
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise TrainingFailed(f"{len(raw)} bytes are not arrays of weights: {error}") from error


def without_checkpoint(report: EpochReport) -> EpochReport:
    """The report as histories keep it."""
    return replace(report, checkpoint=None)


def _line(report: EpochReport) -> dict[str, Any]:
    return asdict(without_checkpoint(report))
