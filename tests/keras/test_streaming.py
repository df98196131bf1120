"""What does not fit in memory trains to the same bits, and needs no more memory."""

import json
import subprocess
import sys

import numpy as np

from hapredict.registry.store import open_store
from hapredict.training.feed import Resident
from hapredict.training.keras_fit import fit
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.shards import ShardSet, Streamed, load, put_shard
from tests.support.learnable import SPEC, learnable, split

SHUFFLED = 5000


def shard_set_of(root, examples, sizes):
    store = open_store(str(root))
    ends = np.cumsum(sizes)
    shards = tuple(
        put_shard(store, "p", examples.take(slice(end - size, end)), np.zeros(size))
        for size, end in zip(sizes, ends.tolist(), strict=True)
    )
    widths = examples.numbers.shape[1], examples.categories.shape[1]
    return ShardSet("k", "p", *widths, has_ids=False, shards=shards, folder=str(root / "p"))


def test_rows_from_files_train_to_the_same_bits_as_rows_in_memory(tmp_path):
    shape, examples = learnable(rows=16_000)
    train, validation = split(examples)
    found = shard_set_of(tmp_path, train, [6000, 100, 6700])
    assert len(Streamed(found, SHUFFLED).window_rows) > 1
    weights = [
        fit(shape, SPEC, feed, validation, on_epoch=lambda _: None).weights
        for feed in (
            Resident(train, SHUFFLED),
            Resident(load(found), SHUFFLED),
            Streamed(found, SHUFFLED),
        )
    ]
    assert weights[0] == weights[1] == weights[2]


PROGRAM = """
import json, resource, sys
from hapredict.sections import TrainingSpec
from hapredict.training.keras_fit import fit
from hapredict.training.network import NetworkShape
from hapredict.training.ray_feed import Ahead
from hapredict.training.shards import ShardSet, Streamed, load

raw, folder, spec, shape, shuffled, times = json.loads(sys.argv[1])
few = ShardSet.from_json(raw, "", folder, None)
many = ShardSet.from_json({**raw, "shards": raw["shards"] * times}, "", folder, None)
shape = NetworkShape.from_json(shape)
judged = load(few).take(slice(0, 100))

def peak_after(found):
    feed = Ahead(Streamed(found, shuffled))
    fit(shape, TrainingSpec(**spec), feed, judged, on_epoch=lambda _: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak_after(few)
print(json.dumps([peak_after(many) - before, many.bytes]))
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    """The same shards many times over: the fit cannot tell them from so many rows."""
    shape, narrow = learnable(rows=32_768, numbers=1, categories=0)
    width = 100
    names = tuple(f"n{place}" for place in range(width))
    wide = NetworkShape(shape.edges * width, (), 1, "binary", names)
    examples = Examples(np.tile(narrow.numbers[:, :1], 2 * width), narrow.categories, narrow.labels)
    found = shard_set_of(tmp_path, examples, [16_384, 16_384])
    window_bytes = 8192 * found.row_bytes
    spec = {"hidden": [4], "epochs_max": 1, "batch_rows": 1024}
    told = [found.to_json(), found.folder, spec, wide.to_json(), 8192, 24]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(told)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    grown, total = json.loads(ended.stdout.splitlines()[-1])
    assert total > 90 * window_bytes
    assert grown < 8 * window_bytes, f"{grown / window_bytes:.1f} windows of {total / grown:.0f}"
