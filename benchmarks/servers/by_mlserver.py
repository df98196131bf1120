"""MLServer: a runtime with the Open Inference Protocol, one tensor a column.

    python -m servers.by_mlserver PORT

Without the pool of worker processes (`parallel_workers: 0`): one process answers.
"""

import asyncio
import socket
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings, types
from mlserver.codecs import NumpyCodec, StringCodec
from servers.scorer import Scorer


class Bench(MLModel):
    """Tensors to rows to scores."""

    async def load(self) -> bool:
        self._scorer = Scorer()
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        columns = {tensor.name: _values(tensor) for tensor in payload.inputs}
        rows = list(zip(*(columns[name] for name in self._scorer.names), strict=True))
        scores = self._scorer.of_values(rows)
        tensor = types.ResponseOutput(
            name="score", shape=[len(scores), 1], datatype="FP32", data=scores
        )
        return types.InferenceResponse(model_name=self.name, outputs=[tensor])


def _values(tensor: types.RequestInput) -> list[float | str]:
    if tensor.datatype == "BYTES":
        return StringCodec.decode_input(tensor)
    return NumpyCodec.decode_input(tensor).ravel().tolist()


async def serve(port: int) -> None:
    """Answer until told to end."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=_free_port(),
        metrics_port=_free_port(),
        parallel_workers=0,
        debug=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="bench", implementation=Bench)])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
