"""Batch prediction on Ray Data: Parquet or CSV in, Parquet out, scored by the bundle that serves.

What goes through Ray Data are parts (`batch_plan.py`), one a block; a pool of processes reads,
scores and writes them (`ray_batch_part.py`). So no row is moved, and what was written stays when
everything dies: the same call again finds the receipts and scores what is left. The output folder
says itself whether it is whole: `_hapredict.json` in it has `"complete": true` after all else is
written. Why so: docs/decisions/0015-batch.md.
"""

import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.data
from pyarrow import fs
from ray.exceptions import RayError

from hapredict.data.ray_dataset import ENDINGS, find_files
from hapredict.data.schema import Schema
from hapredict.errors import (
    ClusterUnavailable,
    Conflict,
    DataError,
    HapredictError,
    NotFound,
    Problem,
    StoreUnavailable,
)
from hapredict.registry.catalog import Catalog, Version
from hapredict.registry.store import Store, decode_json, encode_json, open_store
from hapredict.serving.batch import Predicted, chosen_version, names_of
from hapredict.serving.batch_plan import (
    PART_BYTES,
    PART_ROWS,
    SUMMARY,
    File,
    Part,
    Plan,
    Progress,
    Receipt,
    difference,
    input_of,
    is_ours,
    parts_of,
)
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import load_version
from hapredict.serving.ray_batch_part import Scorer, Work, look_at, opened
from hapredict.spec import Spec

FORMAT = 2
"""Of the output folder; a folder of another one is not gone on with."""
_THREADS = 16

Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch prediction as it was asked for."""

    source: str
    """File, folder, glob or URL; relative paths start at the home, here and in `output`."""
    output: str
    """Folder or URL of what a store can be (file, s3, gs, az)."""
    version: int | None = None
    """The champion unless it is given."""
    keep: tuple[str, ...] = ()
    """Columns of the input that the output has too, beside id and time."""
    overwrite: bool = False
    """Replace what an earlier batch prediction wrote, and nothing else."""
    actors: int = 2
    """Processes that score, at most, with a CPU each."""
    part_rows: int = PART_ROWS
    """Rows of a part, unless one row group has more."""


def predict_files(
    store: Store, spec: Spec, asked: Asked, home: Path, tell: Tell = lambda _: None
) -> Predicted:
    """Answer all rows of a source into a folder, or go on with that where it stopped.

    Columns of the output: the model's id and time as they came, if all files have them, and those
    to keep; then those of `batch.names_of`. One file a part, named in the order of the source.
    `tell` hears how far it is after each part.

    Raises DataError, Conflict if the output holds something else, NotFound, UnknownName,
    GateRefused if the version must not answer, StoreUnavailable, ClusterUnavailable. Whatever ends
    it, parts that are written stay.
    """
    began_s = time.monotonic()
    entry = Catalog(store, spec.name).latest()
    if entry is None:
        raise NotFound(f"model {spec.name!r} has no version yet")
    chosen = chosen_version(entry.state, asked.version)
    loaded = load_version(store, spec.name, chosen)
    schema = loaded.schema
    url = asked.output if "://" in asked.output else str((home / asked.output).absolute())
    files = _look_at_all(_outside(url, _files_of(spec, asked.source, home)))
    kept = kept_of(schema, files, asked.keep)
    names_of(schema, loaded.engine.extras, kept)
    rule = Rule.of(spec.serving)
    plan = Plan(_about(spec, chosen, rule, kept, files, asked.part_rows), _parts(files, asked))
    folder = _Folder(open_store(url), url, plan)
    folder.claim(overwrite=asked.overwrite)
    receipts = folder.receipts()
    left = plan.left(receipts, folder.names())
    if not left and folder.is_complete():
        return _predicted(spec, chosen, url, folder.summary())
    features = [column.name for column in schema.features]
    wanted = tuple(dict.fromkeys((*features, *_labels_of(schema, files), *kept)))
    work = Work(store.url, folder.store.url, spec.name, chosen, rule, spec.data, wanted, kept)
    gone = {part.place for part in left}
    done = {one.place: one for one in receipts if one.place not in gone}
    earlier = tuple(done)

    def progress() -> Progress:
        return Progress.of(plan, done.values(), earlier, time.monotonic() - began_s)

    if left:
        folder.begin()
        tell(progress())
        for receipt in _scored(work, plan, left, asked.actors):
            done[receipt.place] = receipt
            tell(progress())
    if not any(one.rows for one in done.values()):
        raise DataError("the files have no rows")
    now = progress()
    summary = folder.end(done.values(), now.rows_now, now.seconds)
    return _predicted(spec, chosen, url, summary, now.rows_now, now.seconds)


def kept_of(schema: Schema, files: Sequence[File], keep: Sequence[str]) -> tuple[str, ...]:
    """The columns to keep: id and time if all files have them, and those asked for.

    Raises DataError unless all files have all features and all that is asked for, once each.
    """
    in_all = set.intersection(*(set(file.columns) for file in files))
    what = "no such column, or not in all files; "
    needed = {column.name: f"{what}the model needs it" for column in schema.features}
    needed |= {name: f"{what}it cannot be kept" for name in keep if name not in needed}
    problems = [Problem(name, why) for name, why in needed.items() if name not in in_all]
    labels = _labels_of(schema, files)
    for file in files:
        twice = [name for name in (*needed, *labels) if file.columns.count(name) > 1]
        problems += [
            Problem(file.name, f"has more than one column named {name!r}") for name in twice
        ]
    if problems:
        raise DataError(tuple(problems))
    return tuple(dict.fromkeys((*labels, *keep)))


def _labels_of(schema: Schema, files: Sequence[File]) -> tuple[str, ...]:
    """Which of id and time all files have. They are kept, and one that cannot be read is said."""
    in_all = set.intersection(*(set(file.columns) for file in files))
    return tuple(name for name in (schema.id, schema.time) if name is not None and name in in_all)


def _files_of(spec: Spec, source: str, home: Path) -> tuple[str, ...]:
    """The files of the source, sorted; those of a URL's folder too."""
    if "://" not in source:
        return find_files(spec.data.model_copy(update={"sources": (source,)}), home)
    try:
        filesystem, path = opened(source)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            return (source,)
        found = filesystem.get_file_info(
            fs.FileSelector(path, recursive=True, allow_not_found=True)
        )
    except (OSError, ValueError) as error:
        raise DataError((Problem(source, f"cannot be listed: {error}"),)) from error
    inside = [one.path.removeprefix(path).lstrip("/") for one in found if one.is_file]
    names = sorted(
        f"{source.rstrip('/')}/{name}"
        for name in inside
        if name.endswith(ENDINGS) and not any(part[0] in "._" for part in name.split("/"))
    )
    if not names:
        raise DataError((Problem(source, "has no file that ends in .parquet or .csv"),))
    return tuple(names)


def _outside(output: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names that are not in the output, which may lie in the folder of the input."""

    def resolved(name: str) -> str:
        return name.rstrip("/") if "://" in name else str(Path(name).resolve())

    found = tuple(name for name in names if not resolved(name).startswith(f"{resolved(output)}/"))
    if not found:
        raise DataError((Problem(output, "holds all files of the input; name another folder"),))
    return found


def _look_at_all(names: Sequence[str]) -> list[File]:
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(look_at, names))


def _parts(files: Sequence[File], asked: Asked) -> tuple[Part, ...]:
    parts = parts_of(files, asked.part_rows)
    if not parts:
        raise DataError("the files have no rows")
    return parts


def _about(
    spec: Spec,
    chosen: Version,
    rule: Rule,
    kept: Sequence[str],
    files: Sequence[File],
    part_rows: int,
) -> dict[str, Any]:
    """All that the output depends on."""
    return {
        "format": FORMAT,
        "model": spec.name,
        "version": chosen.number,
        "digest": chosen.digest,
        "threshold": rule.threshold,
        "costs": {true: dict(said) for true, said in rule.costs.items()},
        "columns": list(kept),
        "kinds": {name: spec.data.columns[name] for name in sorted(spec.data.columns)},
        "input": input_of(files),
        "part_rows": part_rows,
        "part_bytes": PART_BYTES,
    }


def _predicted(
    spec: Spec,
    chosen: Version,
    url: str,
    summary: Mapping[str, Any],
    scored: int = 0,
    seconds: float = 0.0,
) -> Predicted:
    return Predicted(
        model=spec.name,
        version=chosen.number,
        rows=summary["rows"],
        unreadable=summary["unreadable"],
        scored=scored,
        seconds=seconds,
        output=url,
        summary=summary,
    )


def _scored(work: Work, plan: Plan, left: Sequence[Part], actors: int) -> Iterator[Receipt]:
    """The receipts of parts as they are written, in any order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [
        {
            "part": json.dumps(part.to_json()),
            "file": plan.file_of(part.place),
            "receipt": plan.receipt_of(part.place),
        }
        for part in left
    ]
    told = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Scorer,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(actors, len(rows)))),
    )
    try:
        for row in told.iter_rows():
            found = pickle.loads(row["told"])  # noqa: S301 - our own, from our own process
            if isinstance(found, HapredictError):
                raise found
            yield found
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ClusterUnavailable(
            f"the prediction broke off: {last}; the same call again goes on where it stopped"
        ) from error


class _Folder:
    """The output and what it says of itself."""

    def __init__(self, store: Store, url: str, plan: Plan) -> None:
        self.store = store
        self._url = url
        self._plan = plan

    def names(self) -> set[str]:
        """All that is in it."""
        return set(self.store.list(""))

    def claim(self, *, overwrite: bool) -> None:
        """Make the folder ours, unless it holds something else. Raises Conflict that says what."""
        if not self.store.exists(SUMMARY):
            found = self.names()
            if found:
                raise Conflict(
                    f"{self._url} holds {len(found)} files that no batch prediction wrote; name "
                    "another folder"
                )
            try:
                self.store.put_new(SUMMARY, encode_json(self._plan.begun()))
                return
            except Conflict:
                pass  # somebody began at the same moment; perhaps the same
        if overwrite:
            self.begin()
            for name in filter(is_ours, self.names()):
                self.store.delete(name)
            return
        other = difference(self.summary(), self._plan.about)
        if other:
            raise Conflict(
                f"{self._url} holds an earlier batch prediction of something else: {other}; ask "
                "for the same to go on with it, name another folder, or replace it (--overwrite)"
            )

    def begin(self) -> None:
        """Say that the folder is not complete."""
        self.store.put(SUMMARY, encode_json(self._plan.begun()))

    def summary(self) -> dict[str, Any]:
        """What the folder says of itself."""
        found: dict[str, Any] = decode_json(self.store.get(SUMMARY), f"{self._url}/{SUMMARY}")
        return found

    def is_complete(self) -> bool:
        """Whether it says that all is there."""
        return bool(self.summary().get("complete"))

    def receipts(self) -> list[Receipt]:
        """Of the parts that are written."""
        paths = {self._plan.receipt_of(part.place) for part in self._plan.parts}
        with ThreadPoolExecutor(_THREADS) as threads:
            found = threads.map(self.store.get, sorted(paths & self.names()))
            return [Receipt(**decode_json(data, "a receipt")) for data in found]

    def end(self, receipts: Any, scored: int, seconds: float) -> dict[str, Any]:
        """Remove what others left, and say that the folder is complete."""
        names = self.names()
        lost = self._plan.left(receipts, names)
        if lost:
            raise StoreUnavailable(
                f"{len(lost)} of {len(self._plan.parts)} files were written to {self._url} of "
                "other nodes; the output must be a folder that all nodes share, or a URL"
            )
        for name in self._plan.strangers(names):
            self.store.delete(name)
        summary = self._plan.summary(receipts, scored, seconds)
        self.store.put(SUMMARY, json.dumps(summary, indent=1).encode())
        return summary
