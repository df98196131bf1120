"""What a batch prediction has to do, cut into parts, and what is left of it.

A part is what one process scores at a time and writes as one file: row groups of Parquet, or whole
CSV files. What is done is told by the receipts beside the files, each written after its file. The
names of both hold the job's key, so that nobody who scored something else can be taken for it.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hapredict.registry.store import encode_json

PART_ROWS = 131_072
"""Rows that are lost at most, for each process, when a prediction is killed."""
PART_BYTES = 64 << 20
"""Of files in one part, unless one file or row group alone has more."""
SUMMARY = "_hapredict.json"
"""Readers of Parquet folders skip names that begin with `_`."""
RECEIPTS = "_parts"
_KEY_LETTERS = 12
_OURS = re.compile(r"(part-\d+-[0-9a-f]+|\d+)\.parquet")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the input as it was found."""

    name: str
    bytes: int
    changed_ns: int
    """When it was last changed, since 1970; 0 if nobody knows."""
    columns: tuple[str, ...]
    groups: tuple[tuple[int, int], ...] | None
    """Rows and bytes of each row group of a Parquet file; None for CSV."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one file that lie beside each other."""

    file: str
    file_bytes: int
    changed_ns: int
    bytes: int
    first: int = 0
    end: int = 0
    """Row groups from `first` up to `end`, without it; the whole file if that is 0 (CSV)."""
    rows: int | None = None
    """None before a CSV file is read."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is scored at a time; `place` orders parts as the input is ordered."""

    place: int
    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Of the input."""
        return sum(piece.bytes for piece in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """The part as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Part":
        """The part that `to_json` wrote."""
        return cls(raw["place"], tuple(Piece(**piece) for piece in raw["pieces"]))


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that a part is written, and what it holds."""

    place: int
    name: str
    """Of the file; "" for a part without rows, which has none."""
    rows: int
    unreadable: int
    """Rows with a value that could not be read."""
    bytes: int
    sha256: str
    cpu_s: float
    """Processor time that it took."""


def parts_of(
    files: Iterable[File], rows_max: int = PART_ROWS, bytes_max: int = PART_BYTES
) -> tuple[Part, ...]:
    """The files' rows in their order, cut into parts.

    Neighbours are put together while they have no more than `rows_max` rows and `bytes_max` bytes;
    a row group or a CSV file is never cut. Row groups without rows are left out.
    """
    parts: list[tuple[Piece, ...]] = []
    open_part: list[Piece] = []
    for piece in _pieces(files, rows_max, bytes_max):
        rows = sum(one.rows or 0 for one in open_part) + (piece.rows or 0)
        size = sum(one.bytes for one in open_part) + piece.bytes
        if open_part and (rows > rows_max or size > bytes_max):
            parts.append(tuple(open_part))
            open_part = []
        open_part.append(piece)
    if open_part:
        parts.append(tuple(open_part))
    return tuple(Part(place, pieces) for place, pieces in enumerate(parts))


def _pieces(files: Iterable[File], rows_max: int, bytes_max: int) -> Iterable[Piece]:
    for file in files:
        about = (file.name, file.bytes, file.changed_ns)
        if file.groups is None:
            yield Piece(*about, file.bytes)
            continue
        first = rows = size = 0
        for place, (more_rows, more_bytes) in enumerate(file.groups):
            if rows and (rows + more_rows > rows_max or size + more_bytes > bytes_max):
                yield Piece(*about, size, first, place, rows)
                first, rows, size = place, 0, 0
            rows, size = rows + more_rows, size + more_bytes
        if rows:
            yield Piece(*about, size, first, len(file.groups), rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """One batch prediction: whose answers to what (`about`, JSON values), in which parts."""

    about: Mapping[str, Any]
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """The same for the same prediction, another for any other."""
        return hashlib.sha256(encode_json(self.about)).hexdigest()[:_KEY_LETTERS]

    def file_of(self, place: int) -> str:
        """The name of a part's file."""
        return f"part-{place:06d}-{self.key}.parquet"

    def receipt_of(self, place: int) -> str:
        """The path of a part's receipt."""
        return f"{RECEIPTS}/{self.key}/{place:06d}.json"

    def left(self, receipts: Iterable[Receipt], names: Collection[str]) -> tuple[Part, ...]:
        """The parts still to be scored, given all receipts and the names of all files."""
        done = {one.place for one in receipts if not one.name or one.name in names}
        return tuple(part for part in self.parts if part.place not in done)

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Which of the names are parts or receipts of another prediction."""
        ours = {self.file_of(part.place) for part in self.parts}
        receipts = {self.receipt_of(part.place) for part in self.parts}
        return sorted(name for name in names if is_ours(name) and name not in ours | receipts)

    def begun(self) -> dict[str, Any]:
        """The summary of a folder that is not complete."""
        return {**self.about, "key": self.key, "complete": False}

    def summary(self, receipts: Iterable[Receipt], scored: int, seconds: float) -> dict[str, Any]:
        """The summary of a complete folder: all that is in it.

        `scored` rows were answered in `seconds` by the run that ended it; earlier runs may have
        answered others.
        """
        receipts = sorted(receipts, key=lambda one: one.place)
        fields = ("name", "rows", "bytes", "sha256")
        return {
            **self.begun(),
            "complete": True,
            "rows": sum(one.rows for one in receipts),
            "unreadable": sum(one.unreadable for one in receipts),
            "scored": scored,
            "seconds": round(seconds, 3),
            "rows_per_s": round(scored / seconds, 1) if seconds > 0 else 0.0,
            "cpu_s": round(sum(one.cpu_s for one in receipts), 3),
            "parts": [
                {field: getattr(one, field) for field in fields} for one in receipts if one.name
            ],
        }


def is_ours(name: str) -> bool:
    """Whether a batch prediction gives a file such a name."""
    return _OURS.fullmatch(name) is not None or name.startswith(f"{RECEIPTS}/")


def input_of(files: Sequence[File]) -> dict[str, Any]:
    """The input as `about` tells it: how many files and bytes, and a fingerprint.

    The fingerprint changes with the order, name, size and time of change of the files.
    """
    told = [[file.name, file.bytes, file.changed_ns] for file in files]
    return {
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "fingerprint": hashlib.sha256(encode_json(told)).hexdigest(),
    }


def difference(begun: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """In what a folder's prediction differs from the one that is asked for; "" if in nothing."""
    told = [
        _difference(name, begun.get(name), about[name])
        for name in about
        if begun.get(name) != about[name]
    ]
    return "; ".join(dict.fromkeys(told))


def _difference(name: str, was: Any, now: Any) -> str:
    if was is None and name not in ("threshold", "costs"):
        return "another release of hapredict wrote it"
    if name == "version":
        return f"it is of v{was}, and v{now} would answer (--version {was} goes on with v{was})"
    if name == "model":
        return f"it is of model {was!r}, not {now!r}"
    if name == "columns":
        return f"it keeps the columns {was}, not {now} (--keep)"
    if name == "input":
        sizes = [f"{one['files']:,} files of {one['bytes']:,} bytes" for one in (was, now)]
        if sizes[0] == sizes[1]:
            return "its input has other names, or was changed since"
        return f"its input was {sizes[0]} and is {sizes[1]} now"
    if name in ("threshold", "costs"):
        return f"it was decided by serving.{name} {was!r}, and the spec has {now!r} now"
    if name == "kinds":
        return f"data.columns was {was}, and the spec has {now} now"
    if name == "digest":
        return "the version has other bytes than it had"
    return "another release of hapredict wrote it"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch prediction is."""

    parts: int
    parts_done: int
    rows: int
    """Answered, by this run and earlier ones."""
    rows_now: int
    """Answered by this run."""
    bytes: int
    bytes_done: int
    bytes_now: int
    """Of the input: in all, read by this run and earlier ones, and by this run."""
    seconds: float
    """Of this run."""

    @classmethod
    def of(
        cls, plan: Plan, receipts: Iterable[Receipt], earlier: Iterable[int], seconds: float
    ) -> "Progress":
        """After these receipts, of which the places `earlier` were there when the run began."""
        before = set(earlier)
        sizes = {part.place: part.bytes for part in plan.parts}
        done = {one.place: one.rows for one in receipts}
        return cls(
            parts=len(plan.parts),
            parts_done=len(done),
            rows=sum(done.values()),
            rows_now=sum(rows for place, rows in done.items() if place not in before),
            bytes=sum(sizes.values()),
            bytes_done=sum(sizes[place] for place in done),
            bytes_now=sum(sizes[place] for place in done if place not in before),
            seconds=seconds,
        )

    @property
    def rows_per_s(self) -> float:
        """Of this run."""
        return self.rows_now / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this run's pace; None before anything is done."""
        if not self.bytes_now:
            return None
        return self.seconds * (self.bytes - self.bytes_done) / self.bytes_now

    def sentence(self) -> str:
        """Parts, rows, pace and what is left, in one line."""
        told = f"{self.parts_done} of {self.parts} parts, {self.rows:,} rows"
        if not self.rows_now:
            return told
        left = "" if self.left_s is None else f", {self.left_s:.0f} s left"
        return f"{told}, {self.rows_per_s:,.0f} rows/s{left}"
