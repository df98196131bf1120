"""Checkpoints of a run as files: whole or not at all, written while training goes on.

    <storage>/<run>/00000012-2-4.state      after 12 epochs, by 2 workers of 4 threads each
    <storage>/<run>/00000013-2-4.damaged    its hash was wrong when it was to be resumed

Ray Train keeps an index of checkpoints and trusts it; it is lost with the process that was writing
it. Here the files are the index, and each proves itself by the hash in front of it.
"""

import contextlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs
from ray.train.v2._internal.constants import VALIDATE_STORAGE_MARKER_FILENAME

from hapredict.errors import TrainingFailed
from hapredict.training.fitted import State

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.state")
_FLUSH_S = 120.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state, and who wrote it."""

    epoch: int
    workers: int
    threads: int
    """Of each worker; the same number gives the same bits."""
    state: bytes = field(repr=False)


def absolute(storage_path: str) -> str:
    """Workers run in a folder of their own, where a relative path would mean another place."""
    return storage_path if "://" in storage_path else str(Path(storage_path).resolve())


class Checkpoints:
    """The checkpoints of one run. Methods raise OSError if the storage does not answer."""

    def __init__(self, storage_path: str, run: str, kept: int) -> None:
        self._files, root = fs.FileSystem.from_uri(absolute(storage_path))
        self._folder = f"{root.rstrip('/')}/{run}"
        self._kept = kept
        self._local = isinstance(self._files, fs.LocalFileSystem)

    def check_reach(self) -> None:
        """Raise TrainingFailed if this node does not see what whoever started the run wrote."""
        marker = f"{self._folder}/{VALIDATE_STORAGE_MARKER_FILENAME}"
        if self._files.get_file_info(marker).type == fs.FileType.NotFound:
            raise TrainingFailed(
                f"a worker's node does not reach {self._folder}; the store of a model that is "
                "trained on several nodes must be a URL or a path that all of them share"
            )

    def save(self, found: Checkpoint) -> None:
        """Write a checkpoint, and remove those beyond the newest ones to keep."""
        name = f"{found.epoch:08d}-{found.workers}-{found.threads}.state"
        self._files.create_dir(self._folder, recursive=True)
        # an object store shows a file when it is closed, a folder as soon as it is opened
        hidden = f"{self._folder}/.{name}" if self._local else f"{self._folder}/{name}"
        with self._files.open_output_stream(hidden) as file:
            file.write(found.state)
        if self._local:
            self._files.move(hidden, f"{self._folder}/{name}")
        for old in self._names()[: -self._kept]:
            self._remove(old)

    def newest(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        """The newest whole checkpoint, and the names of damaged ones, which are set aside."""
        damaged = []
        for name in reversed(self._names()):
            with self._files.open_input_stream(f"{self._folder}/{name}") as file:
                state = file.read()
            try:
                State.from_bytes(state)
            except TrainingFailed:
                aside = name.replace(".state", ".damaged")
                self._files.move(f"{self._folder}/{name}", f"{self._folder}/{aside}")
                damaged.append(aside)
                continue
            epoch, workers, threads = map(int, _NAME.fullmatch(name).groups())  # type: ignore[union-attr]
            return Checkpoint(epoch, workers, threads, state), tuple(damaged)
        return None, tuple(damaged)

    def _names(self) -> list[str]:
        """Oldest first."""
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        names = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def _remove(self, name: str) -> None:
        try:
            self._files.delete_file(f"{self._folder}/{name}")
        except FileNotFoundError:
            return


def keep_newest(storage_path: str, kept: int, run: str) -> None:
    """Remove the folders of runs named alike but `run` and the newest others, `kept` in all.

    Names are alike that begin alike, up to their first "-". What cannot be removed now is removed
    another time.
    """
    files, root = fs.FileSystem.from_uri(absolute(storage_path))
    root = root.rstrip("/")
    with contextlib.suppress(OSError):
        selector = fs.FileSelector(root, allow_not_found=True)
        alike = run.partition("-")[0] + "-"
        others = [
            info
            for info in files.get_file_info(selector)
            if info.base_name.startswith(alike) and info.base_name != run
        ]
        newest = sorted(others, key=lambda info: info.mtime_ns or 0, reverse=True)
        for old in newest[kept - 1 :]:
            if old.type == fs.FileType.Directory:
                files.delete_dir(old.path)


class Writer:
    """Saves checkpoints in a thread of its own, and only the newest where storage is slower.

    `told` is called in that thread with the epoch that was saved, and with why it was not or "".
    """

    def __init__(self, checkpoints: Checkpoints, told: Callable[[int, str], None]) -> None:
        self._checkpoints = checkpoints
        self._told = told
        self._next: Checkpoint | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, checkpoint: Checkpoint) -> None:
        """Have it saved soon, in place of one that still waits."""
        with self._changed:
            self._next = checkpoint
            self._changed.notify()

    def close(self) -> None:
        """Wait until the last checkpoint is saved, but not for ever: the training is done."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(_FLUSH_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._ended)
                checkpoint, self._next = self._next, None
            if checkpoint is None:
                return
            try:
                self._checkpoints.save(checkpoint)
            except Exception as error:
                # a checkpoint that is missing costs time after a fault, and nothing without one
                self._told(checkpoint.epoch, f"{type(error).__name__}: {error}")
            else:
                self._told(checkpoint.epoch, "")
