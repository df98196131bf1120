"""How fast predictions are served: hapredict against its peers and against the bare event loop.

    make bench-serve

The same model, the same rows, the same load generator (wrk, which must be installed), the same
cores, one worker or replica each. All servers are started and asked once whether they compute the
right scores; then they take turns, so that a busy moment of the machine hits all alike, and only
one is under load at a time. Figures are medians over rounds. Processor time is that of all
processes of a server; it says more than requests a second on a machine that others use too.
"""

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_measure import Tree, end, find_wrk, load, on_cores, spent_us
from serve_servers import ROOT, SERVERS, Server
from serve_table import Cell, Log, tables

HERE = Path(__file__).parent
CONNECTIONS = {1: (1, 16, 64), 32: (16,), 256: (16,)}
"""Connections by rows a request."""
READY_S = 240
REST_S = 2.0
SCORES_OFF_MAX = 1e-5
CHECKED = 256


@dataclass
class Running:
    """A server that answers."""

    server: Server
    tree: Tree
    process: "subprocess.Popen[bytes]"
    url: str
    folder: Path
    rest_us_a_s: float = 0.0
    failed: str = ""

    def bodies(self, rows: int) -> Path:
        """The file with what is sent to it, so many rows a request."""
        return self.folder / f"{self.server.name}-{rows}.bodies"


def main() -> None:
    """Measure and print the tables."""
    asked = _arguments()
    find_wrk()
    names = asked.servers or [server.name for server in SERVERS]
    unknown = sorted(set(names) - {server.name for server in SERVERS})
    if unknown:
        raise SystemExit(f"{unknown} is no server; they are {[one.name for one in SERVERS]}")
    log = Log(asked.log)
    wanted = {
        server.name: [cell for cell in _cells(server, asked.rounds) if cell not in log.done]
        for server in SERVERS
        if server.name in names
    }
    began_s = time.monotonic()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        if any(wanted.values()):
            _write_model(Path(folder))
            chosen = [server for server in SERVERS if wanted.get(server.name)]
            failures = _measure(chosen, wanted, Path(folder), asked, log)
    print("\n".join(tables(SERVERS, log.lines)))
    print(
        f"\n{asked.rounds} rounds of {asked.seconds} s; {time.monotonic() - began_s:.0f} s in all"
    )
    for failure in failures:
        print(failure)
    if failures:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="*", help="names of the servers to measure; all without")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=2, help="whole seconds a load")
    parser.add_argument(
        "--log", type=Path, help="file of JSON lines; what it holds is not repeated"
    )
    parser.add_argument(
        "--server-cores", type=_cores, default=(), help="such as 1,2,3; all without"
    )
    parser.add_argument("--client-cores", type=_cores, default=(), help="such as 0; all without")
    return parser.parse_args()


def _cores(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _cells(server: Server, rounds: int) -> list[Cell]:
    return [
        Cell(server.name, rows, connections, number)
        for number in range(rounds)
        for rows in server.sizes
        for connections in CONNECTIONS[rows]
    ]


def _write_model(folder: Path) -> None:
    _tell("training the model")
    command = [sys.executable, str(HERE / "bench_model.py"), str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the model could not be made: {done.stderr}")


def _measure(
    chosen: list[Server],
    wanted: dict[str, list[Cell]],
    folder: Path,
    asked: argparse.Namespace,
    log: Log,
) -> list[str]:
    """Start, load in turn, end. Returns what failed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    rows = json.loads((folder / "rows.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    started: list[Running] = []
    failures: list[str] = []
    try:
        for server in chosen:
            one = _start(server, folder, asked.server_cores)
            started.append(one)
            began_s = time.monotonic()
            _write_bodies(one, rows)
            one.failed = _wait(one, rows) or _check(one, rows, scores)
            if not one.failed:
                one.failed = _warm_up(one, asked)
            _tell(f"{server.title}: {one.failed or f'{time.monotonic() - began_s:.0f} s to start'}")
            if one.failed:
                end([one.tree])
        for number in range(asked.rounds):
            if any(cell.round == number for cells in wanted.values() for cell in cells):
                _look_at_rest([one for one in started if not one.failed])
            for one in started:
                for cell in wanted[one.server.name]:
                    if cell.round == number and not one.failed:
                        one.failed = _load(one, cell, asked, log)
            _tell(f"round {number + 1} of {asked.rounds}")
        failures = [f"{one.server.title}: {one.failed}" for one in started if one.failed]
    finally:
        end([one.tree for one in started])
    return failures


def _start(server: Server, folder: Path, cores: tuple[int, ...]) -> Running:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    python = ROOT / server.venv / "bin" / "python" if server.venv else Path(sys.executable)
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(paths),
        "BENCH_FOLDER": str(folder),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    command = [str(port) if part == "PORT" else part for part in server.command]
    with (folder / f"{server.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*on_cores(cores), str(python), *command],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    tree = Tree(process.pid, counts_root=not server.starter)
    return Running(server, tree, process, f"http://127.0.0.1:{port}{server.path}", folder)


def _wait(one: Running, rows: list[Any]) -> str:
    """Ask until it answers; "" or why it never did."""
    deadline_s = time.monotonic() + READY_S
    said = "it never answered"
    while time.monotonic() < deadline_s and one.process.poll() is None:
        try:
            _ask(one, rows[:1])
        except (OSError, ValueError, LookupError, TypeError) as error:
            said = str(error)
            time.sleep(0.2)
        else:
            return ""
    last = (
        (one.folder / f"{one.server.name}.log")
        .read_text(errors="replace")
        .strip()
        .splitlines()[-8:]
    )
    return "\n".join([f"{said}; its last words:", *last])


def _ask(one: Running, rows: list[Any]) -> list[float]:
    asked = urllib.request.Request(  # noqa: S310 - our own server
        one.url, one.server.encoded(rows).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        asked, timeout=30
    ) as got:
        return one.server.scores(json.loads(got.read()))


def _check(one: Running, rows: list[Any], scores: list[float]) -> str:
    """Why its scores are not those of the model; "" if they are."""
    for size in one.server.sizes:
        for at in range(0, CHECKED, max(size, 32)):
            right = scores[at : at + size]
            try:
                found = _ask(one, rows[at : at + size])
            except (OSError, ValueError, LookupError, TypeError) as error:
                return f"it cannot answer {size} rows: {error}"
            pairs = zip(found, right, strict=True)
            off = max(abs(a - b) for a, b in pairs) if len(found) == len(right) else math.inf
            if not off <= SCORES_OFF_MAX:
                return f"its scores are off by {off:g}; first {found[:1]} for {right[0]}"
    return ""


def _write_bodies(one: Running, rows: list[Any]) -> None:
    """All rows (but a remainder), so that what is sent looks like what was learned."""
    for size in one.server.sizes:
        starts = range(0, len(rows) - size + 1, size)
        lines = [one.server.encoded(rows[at : at + size]) for at in starts]
        one.bodies(size).write_text("\n".join(lines) + "\n")


def _warm_up(one: Running, asked: argparse.Namespace) -> str:
    """A second of load; "" or why there was none."""
    try:
        load(one.url, one.bodies(1), 16, 1, asked.client_cores)
    except (subprocess.SubprocessError, ValueError) as error:
        return str(error)
    return ""


def _look_at_rest(running: list[Running]) -> None:
    time.sleep(REST_S)
    before = [one.tree.cpu_ns() for one in running]
    began_s = time.monotonic()
    time.sleep(REST_S)
    for one, then in zip(running, before, strict=True):
        took_s = time.monotonic() - began_s
        one.rest_us_a_s = spent_us(then, one.tree.cpu_ns()) / took_s


def _load(one: Running, cell: Cell, asked: argparse.Namespace, log: Log) -> str:
    """One load, written to the log; "" or why there was none."""
    tail_s = one.server.tail_s
    before = one.tree.cpu_ns()
    try:
        got = load(
            one.url,
            one.bodies(cell.rows),
            cell.connections,
            asked.seconds,
            asked.client_cores,
        )
    except (subprocess.SubprocessError, ValueError) as error:
        return str(error)
    time.sleep(tail_s)
    after = one.tree.cpu_ns()
    if one.process.poll() is not None:
        return "it ended under load"
    if not got["requests"]:
        return "it answered nothing under load"
    scoring_mb, all_mb = one.tree.memory_mb()
    log.add(
        cell,
        {
            **got,
            "cpu_us": spent_us(before, after) - tail_s * one.rest_us_a_s,
            "rest_us_a_s": one.rest_us_a_s,
            "scoring_mb": scoring_mb,
            "all_mb": all_mb,
            "parts_us": one.tree.parts_us(before, after),
        },
    )
    return ""


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _leave(*_: object) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    main()
