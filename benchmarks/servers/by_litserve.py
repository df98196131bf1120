"""LitServe: an API class, one worker.

python -m servers.by_litserve PORT
"""

import sys
from typing import Any

import litserve
from servers.scorer import Scorer


class Bench(litserve.LitAPI):
    """Decode, predict, encode: the three steps that LitServe has."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the name is theirs
        self._scorer = Scorer()

    def decode_request(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        return request["instances"]

    def predict(self, x: list[dict[str, Any]]) -> list[float]:
        return self._scorer.of_rows(x)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Bench(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
