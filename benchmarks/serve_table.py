"""The log of `serve_speed.py`, and the tables made of it."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from serve_servers import Server

OWN = ("hapredict-fast", "hapredict-standard")
"""Whose processor time is 1 in the tables: the first that was measured."""
PARTS = 6
"""Processes that are named in one line."""

Line = dict[str, Any]


class Cell(NamedTuple):
    """One load: a server, rows a request, connections, and the round."""

    server: str
    rows: int
    connections: int
    round: int


class Log:
    """Lines of JSON, one a load, in memory and perhaps in a file that outlives the run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[Line] = []
        if path is not None and path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines() if line]

    @property
    def done(self) -> set[Cell]:
        """What the log holds."""
        return {Cell(*(line[name] for name in Cell._fields)) for line in self.lines}

    def add(self, cell: Cell, found: Line) -> None:
        """Keep what came of a load."""
        line = {**cell._asdict(), **found}
        self.lines.append(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def tables(servers: Iterable[Server], lines: list[Line]) -> list[str]:
    """Markdown: one row a request, then many, then what clusters are busy with."""
    servers = list(servers)
    own = next((name for name in OWN if any(line["server"] == name for line in lines)), "")
    return [
        *_one_row(servers, lines, own),
        "",
        *_many_rows(servers, lines, own),
        "",
        *_parts(servers, lines),
    ]


def _one_row(servers: list[Server], lines: list[Line], own: str) -> list[str]:
    heads = (
        "server",
        "requests/s at 1 / 16 / 64",
        "p50 ms at 16 / 64",
        "p99 ms at 16 / 64",
        "CPU us a request at 1 / 16 / 64",
        "x hapredict's at 16 / 64",
        "errors",
        "MB scoring / all",
        "at rest, CPU ms/s",
    )
    found = ["One row a request; at so many connections.", "", *_head(heads)]
    for server in servers:
        by = {c: _of(lines, server.name, 1, c) for c in (1, 16, 64)}
        if not any(by.values()):
            continue
        both = (by[16], by[64])
        every = [line for some in by.values() for line in some]
        fields = (
            server.title,
            _each(by.values(), _rate, ",.0f"),
            _each(both, lambda line: line["p50_us"] / 1e3, ".2f"),
            _each(both, lambda line: line["p99_us"] / 1e3, ".2f"),
            _each(by.values(), _cpu_us, ",.0f"),
            _ratio(both, [_of(lines, own, 1, c) for c in (16, 64)]),
            str(sum(line["errors"] + line["timeouts"] for line in every)),
            " / ".join(
                f"{max(line[name] for line in every):,.0f}" for name in ("scoring_mb", "all_mb")
            ),
            f"{_median(every, lambda line: line['rest_us_a_s'] / 1e3):.1f}",
        )
        found.append(f"| {' | '.join(fields)} |")
    return found


def _many_rows(servers: list[Server], lines: list[Line], own: str) -> list[str]:
    sizes = sorted({line["rows"] for line in lines} - {1})
    heads = [
        f"{size} rows: {what}"
        for size in sizes
        for what in ("rows/s", "p50 / p99 ms", "CPU us a row", "x hapredict's")
    ]
    if not sizes:
        return []
    found = ["Many rows a request, 16 connections.", "", *_head(("server", *heads))]
    for server in servers:
        fields = [server.title]
        for size in sizes:
            some = _of(lines, server.name, size, 16)
            fields += [
                _middle(some, lambda line: line["rows"] * _rate(line), ",.0f"),
                " / ".join(
                    _middle(some, lambda line, name=name: line[name] / 1e3, ".1f")
                    for name in ("p50_us", "p99_us")
                ),
                _middle(some, lambda line: _cpu_us(line) / line["rows"], ".1f"),
                _ratio([some], [_of(lines, own, size, 16)]),
            ]
        if any(line["server"] == server.name and line["rows"] > 1 for line in lines):
            found.append(f"| {' | '.join(fields)} |")
    return found


def _parts(servers: list[Server], lines: list[Line]) -> list[str]:
    """Of servers of many processes: which of them takes how much, at rest and after a load too."""
    found = []
    for server in servers:
        some = _of(lines, server.name, 1, 16)
        if not server.starter or not some:
            continue
        names = sorted({name for line in some for name in line["parts_us"]})
        each = {name: _median(some, partial(_part_us, name)) for name in names}
        most = sorted(each.items(), key=lambda part: -part[1])[:PARTS]
        told = ", ".join(f"{name} {us:,.0f}" for name, us in most)
        found.append(f"{server.title}, CPU us a request by process, rest included: {told}")
    return found


def _head(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]


def _of(lines: list[Line], server: str, rows: int, connections: int) -> list[Line]:
    wanted = (server, rows, connections)
    return [line for line in lines if wanted == (line["server"], line["rows"], line["connections"])]


def _rate(line: Line) -> float:
    return float(line["requests"] / line["wall_us"] * 1e6)


def _cpu_us(line: Line) -> float:
    return float(line["cpu_us"] / line["requests"])


def _part_us(name: str, line: Line) -> float:
    return float(line["parts_us"].get(name, 0.0) / line["requests"])


def _median(group: list[Line], of: Callable[[Line], float]) -> float:
    return statistics.median(map(of, group))


def _each(groups: Iterable[list[Line]], of: Callable[[Line], float], form: str) -> str:
    return " / ".join(_middle(group, of, form) for group in groups)


def _middle(group: list[Line], of: Callable[[Line], float], form: str) -> str:
    return format(_median(group, of), form) if group else "-"


def _ratio(groups: Iterable[list[Line]], owns: Iterable[list[Line]]) -> str:
    """Processor time against hapredict's, for each number of connections."""
    found = []
    for group, own in zip(groups, owns, strict=True):
        if not group or not own:
            found.append("-")
            continue
        mine = _median(own, _cpu_us)
        found.append(f"{_median(group, _cpu_us) / mine:.2f}")
    return " / ".join(found)
