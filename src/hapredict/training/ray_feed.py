"""The feed of a training worker: how much memory it may use, and the next window read ahead.

A thread of its own reads a window while the one before is learned from, so that memory holds two
and the disk and the processor do not wait for each other.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hapredict.sections import TrainingSpec
from hapredict.training.feed import Feed, Window
from hapredict.training.memory import memory_for_rows, rows_shuffled
from hapredict.training.shards import ShardSet, Streamed, open_feed

log = logging.getLogger(__name__)

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container says how much of the machine's memory is its own."""


def worker_feed(shard_set: ShardSet, spec: TrainingSpec, workers_on_node: int = 1) -> Feed:
    """The feed of one of `workers_on_node` workers; the same windows whatever fits in memory.

    Raises StoreUnavailable.
    """
    limit = spec.memory_bytes_max
    memory_bytes = memory_for_rows(limit, node_bytes(), workers_on_node)
    shuffle_rows = rows_shuffled(spec.shuffle_rows, limit, shard_set.row_bytes)
    feed = open_feed(shard_set, memory_bytes, shuffle_rows, _local_folder(shard_set))
    if not isinstance(feed, Streamed):
        return feed
    log.info(
        "%s rows of %s bytes are more than the %s bytes of memory for them: they are streamed",
        *(f"{number:,}" for number in (shard_set.rows, shard_set.bytes, memory_bytes)),
    )
    return Ahead(feed)


def _local_folder(shard_set: ShardSet) -> Path:
    """Where shards of a bucket are copied to; copies of older preparations of the model go."""
    own = Path(tempfile.gettempdir()) / f"hapredict-rows-{os.getuid()}" / shard_set.prefix
    if shard_set.folder is None:
        with contextlib.suppress(OSError):  # another worker removes them too, or there are none
            others = [folder for folder in own.parent.iterdir() if folder != own]
            for folder in sorted(others, key=lambda folder: folder.stat().st_mtime)[:-1]:
                shutil.rmtree(folder, ignore_errors=True)
    return own


def node_bytes() -> int:
    """Memory of this machine, or of the container, where that is less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _LIMITS:
        try:
            found = min(found, int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max", or no such file: no limit
            continue
    return found


@dataclass(frozen=True, slots=True)
class Ahead:
    """A feed whose next window is read by a thread while the last one is in use."""

    feed: Feed

    @property
    def rows(self) -> int:
        return self.feed.rows

    @property
    def window_rows(self) -> tuple[int, ...]:
        return self.feed.window_rows

    def windows(self, seed: int, epoch: int) -> Iterator[Window]:
        """The same windows as those of the feed; an error of reading is raised at its window."""
        windows = self.feed.windows(seed, epoch)
        with ThreadPoolExecutor(1, "rows-ahead") as pool:
            ahead = pool.submit(next, windows, None)
            while (window := ahead.result()) is not None:
                ahead = pool.submit(next, windows, None)
                yield window
                del window  # or three windows would be held while the next is waited for
