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
OVERTIME_S = 30


class Tree:
    """The processes of one server. They may come and go.

    A root that only starts and ends the others does not count.
    """

    def __init__(self, root: int, *, counts_root: bool = True) -> None:
        self._root = psutil.Process(root)
        self._counts_root = counts_root
        self._known: dict[int, psutil.Process] = {root: self._root}

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
        return [one for one in self._known.values() if self._counts_root or one != self._root]

    def cpu_ns(self) -> dict[tuple[int, int], int]:
        """Processor time so far, by process and thread."""
        found = {}
        for process in self.processes():
            for path in _tasks(process.pid):
                with contextlib.suppress(OSError, ValueError):
                    taken = (path / "schedstat").read_text().split()[0]
                    found[process.pid, int(path.name)] = int(taken)
        return found

    def memory_mb(self, title: str) -> tuple[float, float]:
        """Megabytes of the process that scores, and of all; shared pages are parted among users.

        It is the one whose title holds `title`, or else the one that worked most.
        """
        sizes = {one.pid: _pss_mb(one.pid) for one in self.processes()}
        titled = [one.pid for one in self.processes() if title and title in _title(one)]
        work = dict.fromkeys(sizes, 0)
        for (pid, _), taken in self.cpu_ns().items():
            work[pid] = work.get(pid, 0) + taken
        scoring = titled[0] if titled else max(work, key=lambda pid: work[pid])
        return sizes.get(scoring, 0.0), sum(sizes.values())

    def end(self, grace_s: float = 20) -> None:
        """Ask the root to end, then kill what is left."""
        processes = {*self.processes(), self._root}
        with contextlib.suppress(psutil.Error):
            self._root.terminate()
        _, left = psutil.wait_procs(list(processes), timeout=grace_s)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=grace_s)


def spent_us(before: dict[tuple[int, int], int], after: dict[tuple[int, int], int]) -> float:
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
    """What wrk saw: requests, wall_us, p50_us, p99_us, max_us, errors and timeouts."""
    command = [find_wrk(), "--threads=1", f"--connections={connections}"]
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
        raise SystemExit(f"wrk failed on {url}: {done.stderr or done.stdout}")
    return dict(json.loads(lines[-1]))


def on_cores(cores: Iterable[int]) -> list[str]:
    """What to put before a command so that it stays on these cores; nothing for all."""
    listed = ",".join(map(str, cores))
    return ["taskset", "--cpu-list", listed] if listed else []


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
