"""What a server's processes use, and what a load generator gets out of it.

A server is all processes below the one that was started. Their processor time is read from the
kernel's scheduler, in nanoseconds and thread by thread, before and after a load.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

LUA = Path(__file__).parent / "servers" / "load.lua"
ENGINE = "onnxruntime"
TIMEOUT_S = 10
"""After so long an answer counts as none."""
OVERTIME_S = 30

Times = dict[tuple[int, int], int]
"""Nanoseconds by process and thread."""


class Tree:
    """The processes of one server. They may come and go.

    A root that only starts and ends the others does not count.
    """

    def __init__(self, root: int, *, counts_root: bool = True) -> None:
        self.root = psutil.Process(root)
        """What was started, and is told to end."""
        self._counts_root = counts_root
        self._known: dict[int, psutil.Process] = {root: self.root}

    def processes(self) -> list[psutil.Process]:
        """All that live. One that was once below the root stays ours, whoever its parent is now."""
        others = {one.pid: one for one in psutil.process_iter(["ppid"])}
        found = True
        while found:
            found = {
                pid: one
                for pid, one in others.items()
                if pid not in self._known and one.info["ppid"] in self._known
            }
            self._known |= found
        self._known = {pid: one for pid, one in self._known.items() if one.is_running()}
        return [one for one in self._known.values() if self._counts_root or one != self.root]

    def cpu_ns(self) -> Times:
        """Processor time so far, by process and thread."""
        found = {}
        for process in self.processes():
            for path in _tasks(process.pid):
                with contextlib.suppress(OSError, ValueError):
                    taken = (path / "schedstat").read_text().split()[0]
                    found[process.pid, int(path.name)] = int(taken)
        return found

    def memory_mb(self) -> tuple[float, float]:
        """Megabytes of the process that scores, and of all; shared pages are parted among users.

        The one that scores is, of those that hold the engine, the one that worked most.
        """
        work: dict[int, int] = {}
        for (pid, _), taken in self.cpu_ns().items():
            work[pid] = work.get(pid, 0) + taken
        scoring = max(work, key=lambda pid: (_holds(pid, ENGINE), work[pid]))
        return _pss_mb(scoring), sum(map(_pss_mb, work))

    def parts_us(self, before: Times, after: Times) -> dict[str, float]:
        """Processor time between two looks by the name of the process, the most first."""
        parts: dict[str, float] = {}
        for thread, taken in after.items():
            name = _name(self._known[thread[0]]) if thread[0] in self._known else "ended"
            parts[name] = parts.get(name, 0.0) + (taken - before.get(thread, 0)) / 1e3
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def end(trees: Iterable[Tree], grace_s: float = 60) -> None:
    """Ask all roots to end, then kill what is left of their trees."""
    processes = {one for tree in trees for one in (*tree.processes(), tree.root)}
    for tree in trees:
        with contextlib.suppress(psutil.Error):
            tree.root.terminate()
    _, left = psutil.wait_procs(list(processes), timeout=grace_s)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=grace_s)


def spent_us(before: Times, after: Times) -> float:
    """Processor time between two looks; threads that ended meanwhile take theirs with them."""
    return sum(taken - before.get(thread, 0) for thread, taken in after.items()) / 1e3


def find_wrk() -> str:
    """The load generator. Ends the program with a sentence if there is none."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit(
            "the load generator wrk is not here; on Debian and Ubuntu `apt-get install wrk` brings "
            "it, elsewhere see https://github.com/wg/wrk"
        )
    return found


def load(
    url: str, bodies: Path, connections: int, duration_s: float, cores: Iterable[int] = ()
) -> dict[str, Any]:
    """What wrk saw: requests, wall_us, p50_us, p99_us, max_us, errors and timeouts.

    Raises ValueError if it saw nothing, SubprocessError if it did not end.
    """
    command = [find_wrk(), "--threads=1", f"--connections={connections}"]
    command += [f"--timeout={TIMEOUT_S}s"]
    # wrk knows whole seconds only
    command += [f"--duration={max(1, round(duration_s))}s", f"--script={LUA}", url, str(bodies)]
    done = subprocess.run(
        [*on_cores(cores), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=duration_s + OVERTIME_S,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise ValueError(f"wrk failed on {url}: {done.stderr or done.stdout}")
    return dict(json.loads(lines[-1]))


def on_cores(cores: Iterable[int]) -> list[str]:
    """What to put before a command so that it stays on these cores; nothing for all."""
    listed = ",".join(map(str, cores))
    return ["taskset", "--cpu-list", listed] if listed else []


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _name(process: psutil.Process) -> str:
    """What it is: an actor's class, a program, or a program and its script."""
    words: list[str] = []
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
    if not words:
        return "ended"
    if words[0].startswith("ray::"):
        return words[0].split("(")[0].split("#")[0].strip()
    program = Path(words[0]).name
    scripts = [Path(word).name for word in words[1:] if not word.startswith("-")]
    return f"{program} {scripts[0]}" if program.startswith("python") and scripts else program


def _holds(pid: int, library: str) -> bool:
    with contextlib.suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text()
    return False


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
