"""Ray Serve and FastAPI as its documents have them, with Serve's defaults, on a cluster of its own.

python -m servers.by_ray PORT
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from operator import attrgetter
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from servers.by_fastapi import Answer, Body
from servers.scorer import Scorer

START_S = 120
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Bench:
    """One replica, which is the default."""

    def __init__(self) -> None:
        self._scorer = Scorer()
        self._values = attrgetter(*self._scorer.names)

    @app.post("/predict")
    async def predict(self, body: Body) -> Answer:
        return Answer(
            predictions=self._scorer.of_values([self._values(row) for row in body.instances])
        )


def main(port: int) -> None:
    """Start a node, deploy, and wait to be told to end."""
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _leave)
    temp_dir = Path(tempfile.mkdtemp(prefix="bench-ray-"))
    node = None
    try:
        gcs, *others = _free_ports(7)
        with (temp_dir / "ray.log").open("wb") as log:
            node = subprocess.Popen(_command(temp_dir, gcs, others), stdout=log, stderr=log)
        deadline_s = time.monotonic() + START_S
        while b"Ray runtime started" not in (temp_dir / "ray.log").read_bytes():
            if node.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit((temp_dir / "ray.log").read_text())
            time.sleep(0.2)
        ray.init(address=f"127.0.0.1:{gcs}", log_to_driver=False)
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        serve.run(Bench.bind(), name="bench")
        ray.shutdown()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, _leave)
        signal.pause()
    finally:
        if node is not None:
            node.terminate()
            node.wait()
        shutil.rmtree(temp_dir, ignore_errors=True)


def _leave(*_: object) -> None:
    raise SystemExit


def _command(temp_dir: Path, gcs: int, others: list[int]) -> list[str]:
    names = (
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", "--disable-usage-stats"),
        *("--min-worker-port=0", "--max-worker-port=0", "--num-cpus=8", "--num-gpus=0"),
        *(f"--object-store-memory={400 << 20}", f"--temp-dir={temp_dir}"),
        *(f"--{name}={port}" for name, port in zip(names, others, strict=True)),
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody holds now; all are held until all are found, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    # stay on the loopback, for all processes of the node and for this one
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    main(int(sys.argv[1]))
