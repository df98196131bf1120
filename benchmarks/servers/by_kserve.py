"""KServe's SDK: a model class and its server, with protocol v1.

python -m servers.by_kserve PORT
"""

import sys
from typing import Any

import kserve
from servers.scorer import Scorer


class Bench(kserve.Model):
    """Answers `{"instances": [...]}`."""

    def __init__(self) -> None:
        super().__init__("bench")
        self._scorer = Scorer()
        self.ready = True

    async def predict(
        self,
        payload: dict[str, Any],
        headers: dict[str, str] | None = None,  # noqa: ARG002 - the name is theirs
        response_headers: dict[str, str] | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        return {"predictions": self._scorer.of_rows(payload["instances"])}


if __name__ == "__main__":
    port = int(sys.argv[1])
    sys.argv[1:] = []  # it reads them too
    kserve.ModelServer(http_port=port, workers=1, enable_grpc=False).start([Bench()])
