"""Ray Serve and FastAPI as its documents have them, with Serve's defaults, on a cluster of its own.

    python -m servers.by_ray PORT [ONGOING]

The node is started as hapredict starts one, but for the variables that Serve reads. ONGOING
requests are in progress at most; Serve's default is 5, and the others wait in the proxy.
"""

import os
import shutil
import signal
import sys
import tempfile
from operator import attrgetter
from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from servers.by_fastapi import Answer, Body
from servers.scorer import FOLDER_VARIABLE, Scorer
from servers.waiting import obey

from hapredict.control import ray_embedded

app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Bench:
    """One replica, which is the default."""

    def __init__(self, folder: str) -> None:
        self._scorer = Scorer(folder)
        self._values = attrgetter(*self._scorer.names)

    @app.post("/predict")
    async def predict(self, body: Body) -> Answer:
        return Answer(
            predictions=self._scorer.of_values([self._values(row) for row in body.instances])
        )


def main(port: int, **options: int) -> None:
    """Start, deploy, and wait to be told to end."""
    home = Path(tempfile.mkdtemp(prefix="bench-ray-"))
    obey()
    try:
        if not ray_embedded._serve_flags(home, range(240), (0, 1)):  # noqa: SLF001 - must be there
            raise SystemExit("hapredict sets no flags of Serve any more; see how it starts a node")
        ray_embedded._serve_flags = lambda *_: {}  # noqa: SLF001 - all else shall be the same
        ray_embedded.start(home, serve_port=port)
        ray_embedded.connect(home)
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        serve.run(Bench.options(**options).bind(os.environ[FOLDER_VARIABLE]), name="bench")
        ray_embedded.disconnect()
        obey()  # Ray has set handlers of its own
        signal.pause()
    finally:
        ray_embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    ongoing = {"max_ongoing_requests": int(sys.argv[2])} if len(sys.argv) > 2 else {}
    main(int(sys.argv[1]), **ongoing)
