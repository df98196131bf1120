"""What tells whether a preparation may be used again: hashes of files and of the code."""

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray

from hapredict.errors import DataError, Problem
from hapredict.training.prepared import Store, known_hashes, note_hashes

_SETTLED_S = 5.0
"""A file that changed less long ago may change again within the same tick of its clock."""
_CODE = (
    "data",
    "features",
    "training/prepared.py",
    "training/ray_prepare.py",
    "training/ray_rows.py",
    "training/shards.py",
    "training/split.py",
)
"""What decides the outcome, in the package: files and folders."""
_LIBRARIES = ("numpy", "pandas", "pyarrow")
_HASHED_TOGETHER_BYTES = 64 << 20


def code_version() -> str:
    """Changes with the code and the libraries that decide how rows are prepared."""
    package = Path(__file__).parents[1]
    files = [
        file
        for name in _CODE
        for file in (
            sorted((package / name).glob("*.py")) if (package / name).is_dir() else [package / name]
        )
    ]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    digest.update(str([importlib.metadata.version(name) for name in _LIBRARIES]).encode())
    return digest.hexdigest()


def file_hashes(files: Sequence[str], store: Store, model: str) -> list[list[Any]] | None:
    """What tells whether files changed: [ending, sha256 of the bytes], or what a URL's server says.

    In no order of the files: neither their names nor their places matter to what is prepared.
    Files that have the size and the time of change that they had when they were last hashed are
    not read again. None if a URL tells neither, so that nothing may be taken from an earlier run.
    Raises DataError for a file that cannot be read.
    """
    before = known_hashes(store, model)
    found: dict[str, list[Any]] = {}
    waiting: dict[str, tuple[int, int]] = {}
    for name in files:
        if "://" in name:
            said = _told_by_server(name)
            if said is None:
                return None
            found[name] = said
            continue
        state = Path(name).stat()
        known = before.get(name, [])
        if known[:2] == [state.st_size, state.st_mtime_ns]:
            found[name] = [Path(name).suffix, known[2]]
        else:
            waiting[name] = (state.st_size, state.st_mtime_ns)
    now_ns = time.time_ns()
    tasks = [_sha256_of.remote(group) for group in _groups(waiting)]
    noted = {name: known for name, known in before.items() if name in found}
    told = [pair for pairs in ray.get(tasks) for pair in pairs]
    if problems := tuple(Problem(name, said) for name, said in told if " " in said):
        raise DataError(problems)
    for name, sha256 in told:
        size, changed_ns = waiting[name]
        found[name] = [Path(name).suffix, sha256]
        if now_ns - changed_ns > _SETTLED_S * 1e9:
            noted[name] = [size, changed_ns, sha256]
    if noted != before:
        note_hashes(store, model, noted)
    return sorted(found.values(), key=str)


def _told_by_server(url: str) -> list[Any] | None:
    """Sizes and times of change below a URL; None where they are not told or too fresh."""
    try:
        system, path = pyarrow.fs.FileSystem.from_uri(url)
        infos = [system.get_file_info(path)]
        if infos[0].type == pyarrow.fs.FileType.Directory:
            infos = system.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    except (OSError, ValueError, pyarrow.ArrowException):
        return None
    files = [info for info in infos if info.type != pyarrow.fs.FileType.Directory]
    latest_ns = time.time_ns() - _SETTLED_S * 1e9
    if any(info.mtime_ns is None or info.mtime_ns > latest_ns for info in files) or not files:
        return None
    return sorted([info.path, info.size, info.mtime_ns] for info in files)


def _groups(files: Mapping[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Small files together, so that a task is worth its start."""
    group: list[str] = []
    filled = 0
    for name, (size, _) in files.items():
        group.append(name)
        filled += size
        if filled >= _HASHED_TOGETHER_BYTES:
            yield group
            group, filled = [], 0
    if group:
        yield group


@ray.remote
def _sha256_of(files: Sequence[str]) -> list[tuple[str, str]]:
    """The hash of each file, or a sentence that says why there is none."""
    pairs = []
    for name in files:
        try:
            with Path(name).open("rb") as file:
                pairs.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            pairs.append((name, f"cannot be read: {error}"))
    return pairs
