"""Replays the past that files hold: reads them without a cluster, and lives it by each policy."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet

from hapredict.data.ray_dataset import columns_of_frame, csv_options, find_files
from hapredict.errors import DataError, Problem
from hapredict.registry.store import open_store
from hapredict.replay.learner import CachedLearner
from hapredict.replay.outcome import Outcome, compare
from hapredict.replay.past import Past, Times
from hapredict.replay.policies import Policy, find_policy
from hapredict.replay.show import ReplayShown
from hapredict.replay.world import World
from hapredict.sections import DataSpec
from hapredict.spec import Spec
from hapredict.training.ray_inputs import code_version

_LEARNING = ("training", "control/learning.py", "sections.py")
"""What decides, beside the preparation, what is learned: files and folders of the package."""


def replay(
    spec: Spec,
    past: Past,
    times: Times,
    policies: Sequence[str],
    *,
    kept: Path | None,
    shown: ReplayShown,
    seed: int = 0,
    threads: int = 1,
) -> Outcome:
    """Live a past by each policy. `kept` is a folder for models, which the next replay finds."""
    store = open_store(str(kept)) if kept is not None else None
    code = code_version() + _hash_of_code(_LEARNING)
    learner = CachedLearner(past, spec, kept=store, code=code, tell=shown.tell, threads=threads)
    lived = []
    for policy in named(policies, spec):
        shown.begin(policy.name, times.steps)
        with TemporaryDirectory() as folder:
            world = World(past, times, spec, policy, learner, Path(folder))
            lived.append(world.live(shown.step))
    return compare(
        spec.name, past, times, lived, tolerance=spec.monitoring.loss_tolerance, seed=seed
    )


def named(policies: Sequence[str], spec: Spec) -> list[Policy]:
    """The policies of these names, each once. Raises UnknownName."""
    return [find_policy(name, spec.control) for name in dict.fromkeys(policies)]


def read_columns(spec: DataSpec, home: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of all files that a spec names. Raises DataError that names what is wrong."""
    frames, problems = [], []
    for name in find_files(spec, home):
        if "://" in name:
            problems.append(Problem(name, "is no local file; a replay reads local files"))
            continue
        try:
            frames.append(_frame(name, spec))
        except (OSError, pa.ArrowException) as error:
            problems.append(Problem(name, f"cannot be read: {error}"))
    if problems:
        raise DataError(tuple(problems))
    return columns_of_frame(pd.concat(frames, ignore_index=True))


def _frame(name: str, spec: DataSpec) -> pd.DataFrame:
    if name.endswith(".csv"):
        return csv.read_csv(name, convert_options=csv_options(spec)).to_pandas()
    return parquet.read_table(name).to_pandas()


def _hash_of_code(names: Sequence[str]) -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in names:
        path = package / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
