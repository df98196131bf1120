"""The access log: one JSON line a request, without a feature value, at the price of an append.

The event loop only appends a tuple; a thread beside it makes lines of them and writes them. What
the disk does not take in time is dropped and counted: a log must never cost a prediction.
"""

from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from hapredict.serving.answers import Part
from hapredict.serving.exchange import version_header

LINES_MAX = 50_000
"""Lines that wait for the disk at most: some seconds of a busy replica."""
FILES_MAX = 20
"""Files a model and node, of replicas that live and that are gone; the oldest are deleted."""
ERROR_FROM = 400
"""Statuses from here on are written where only errors are."""
_ID_MAX = 128

_encode_lines = msgspec.json.Encoder().encode_lines


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. `route` is a template, never a path as it was sent; `ms` is its whole time.

    `request_id` is the one that the answer carried; `version` as in X-Model-Version.
    """

    time: str
    model: str
    route: str
    status: int
    ms: float
    request_id: str = ""
    rows: int = 0
    version: str = ""


class AccessLog:
    """Lines of one replica, in `file` and in one older file beside it.

    `add` is for the event loop's thread, `write` for one other.
    """

    def __init__(self, model: str, file: Path, *, errors_only: bool, bytes_max: int) -> None:
        """Nothing is created before there is a line; both files have `bytes_max` together."""
        self._model = model
        self._file = file
        self._errors_only = errors_only
        self._bytes_max = bytes_max
        self._added: deque[tuple[float, str, int, float, str | bytes, int, str]] = deque()
        self._begun = False
        self.dropped = 0
        """Lines that were never written."""

    def add(
        self,
        route: str,
        status: int,
        now_s: float,
        duration_s: float,
        request_id: str | bytes,
        part: Part | None,
    ) -> None:
        """A request is over at `now_s`; `part` is what was answered, if anything was."""
        if self._errors_only and status < ERROR_FROM:
            return
        if len(self._added) >= LINES_MAX:
            self.dropped += 1
            return
        rows, version = 0, ""
        if part is not None:
            rows = part.stop - part.start
            if rows == 1:
                version = _text(part.shared.answer.versions.item(part.start))
            else:
                version = version_header(part)[0][1].decode()
        self._added.append((now_s, route, status, duration_s, request_id, rows, version))

    def write(self) -> None:
        """Blocks; write what was added. Raises OSError; the lines are lost then, and counted."""
        count = len(self._added)
        if not count:
            return
        model, take, lines = self._model, self._added.popleft, []
        for _ in range(count):
            now_s, route, status, duration_s, id_, rows, version = take()
            name = id_ if isinstance(id_, str) else id_.decode()
            if len(name) > _ID_MAX:
                name = name[:_ID_MAX]
            moment, ms = _moment(int(1000 * now_s)), round(1000 * duration_s, 3)
            lines.append(Line(moment, model, route, status, ms, name, rows, version))
        try:
            self._append(_encode_lines(lines))
        except OSError:
            self.dropped += count
            raise

    def _append(self, data: bytes) -> None:
        file = self._file
        if not self._begun:
            file.parent.mkdir(parents=True, exist_ok=True)
            _prune(file.parent, FILES_MAX - 2)
            self._begun = True
        with suppress(FileNotFoundError):
            if file.stat().st_size + len(data) > self._bytes_max / 2:
                file.replace(file.with_name(file.name + ".1"))
        with file.open("ab") as out:  # opened anew each time: others may move or delete it
            out.write(data)


def _prune(folder: Path, kept: int) -> None:
    """Delete all but the newest files; several replicas may be at it."""
    ages: list[tuple[float, Path]] = []
    for file in folder.glob("*.jsonl*"):
        with suppress(OSError):
            ages.append((file.stat().st_mtime, file))
    for _, file in sorted(ages)[: max(0, len(ages) - kept)]:
        with suppress(OSError):
            file.unlink()


@lru_cache(maxsize=1024)  # a busy replica ends several requests in a millisecond
def _moment(at_ms: int) -> str:
    """UTC as ISO 8601 with milliseconds."""
    second, ms = divmod(at_ms, 1000)
    return f"{_second(second)}.{ms:03d}Z"


@lru_cache(maxsize=16)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_text = cache(str)
