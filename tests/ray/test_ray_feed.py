"""A worker's rows: in memory or read ahead from files, the same windows either way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hapredict.errors import StoreUnavailable
from hapredict.registry.store import open_store
from hapredict.sections import TrainingSpec
from hapredict.training.feed import Resident
from hapredict.training.network import Examples
from hapredict.training.ray_feed import Ahead, node_bytes, worker_feed
from hapredict.training.shards import ShardSet, Streamed, load, put_shard


@pytest.fixture
def found(tmp_path):
    """Three windows of rows in two shards."""
    chance = np.random.default_rng(0)
    shards = []
    for rows in (6000, 5000):
        examples = Examples(
            chance.normal(size=(rows, 4)).astype(np.float32),
            chance.integers(0, 9, (rows, 2), dtype=np.int32),
            chance.random(rows, dtype=np.float32),
        )
        shards.append(put_shard(open_store(str(tmp_path)), "p", examples, np.zeros(rows)))
    return ShardSet("k", "p", 4, 2, has_ids=False, shards=tuple(shards), folder=str(tmp_path / "p"))


def bytes_of(window):
    rows = window.examples.take(window.rows)
    return [array.tobytes() for array in (rows.numbers, rows.categories, rows.labels)]


def test_the_window_read_ahead_is_the_window_asked_for(found):
    ahead, held = Ahead(Streamed(found, 4096)), Resident(load(found), 4096)
    assert (ahead.rows, ahead.window_rows) == (held.rows, held.window_rows)
    assert len(ahead.window_rows) == 3
    for epoch in range(2):
        pairs = zip(ahead.windows(3, epoch), held.windows(3, epoch), strict=True)
        assert all(bytes_of(one) == bytes_of(other) for one, other in pairs)


def test_an_epoch_may_be_left_before_its_end(found):
    windows = Ahead(Streamed(found, 4096)).windows(3, 0)
    next(windows)
    windows.close()
    assert not list(windows)


def test_what_cannot_be_read_ahead_is_told_at_its_window(found):
    path = Path(found.folder, found.shards[1].name)
    path.unlink()
    with pytest.raises(StoreUnavailable, match=path.name):
        list(Ahead(Streamed(found, 4096)).windows(3, 0))


def test_a_worker_streams_what_is_more_than_its_memory(found):
    assert isinstance(worker_feed(found, TrainingSpec()), Resident)
    few = TrainingSpec().model_copy(update={"memory_bytes_max": 10_000})
    assert isinstance(worker_feed(found, few), Ahead)


def test_the_memory_of_a_node_is_known():
    assert 1 << 28 < node_bytes() < 1 << 50


PROGRAM = """
import json, resource, sys
from pathlib import Path
from hapredict.registry.store import open_store
from hapredict.training.ray_feed import Ahead
from hapredict.training.shards import ShardSet, Streamed

raw, folder, shuffled = json.loads(sys.argv[1])
feed = Ahead(Streamed(ShardSet.from_json(raw, "", folder, None), shuffled))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before, total = peak(), 0.0
for epoch in range(2):
    for window in feed.windows(0, epoch):
        total += float(window.examples.labels.sum())
print(json.dumps([peak() - before, total]))
"""


def test_memory_holds_two_windows_however_many_rows_there_are(tmp_path):
    store = open_store(str(tmp_path))
    rows, shards, width = 20_000, 10, 200
    examples = Examples(
        np.ones((rows, width), np.float32), np.ones((rows, 4), np.int32), np.ones(rows, np.float32)
    )
    # an order of its own makes each shard another file
    parts = [put_shard(store, "p", examples, np.full(rows, float(at))) for at in range(shards)]
    found = ShardSet("k", "p", width, 4, False, tuple(parts))
    window_bytes = 16_384 * found.row_bytes
    assert found.bytes > 10 * window_bytes
    told = json.dumps([found.to_json(), str(tmp_path / "p"), 16_384])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, check=True
    )
    grown, total = json.loads(ended.stdout)
    assert total == 2 * rows * shards
    assert grown < 3 * window_bytes, f"{grown / window_bytes:.1f} windows"
