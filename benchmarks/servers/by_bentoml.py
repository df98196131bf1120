"""BentoML: a service class with a typed API.

python -m bentoml serve servers.by_bentoml:Bench --port PORT
"""

import bentoml
from servers.scorer import Scorer


@bentoml.service
class Bench:
    """One worker, which is the default. A coroutine, which costs it less than its thread pool."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    @bentoml.api
    async def predict(self, instances: list[dict[str, float | str | None]]) -> list[float]:
        return self._scorer.of_rows(instances)
