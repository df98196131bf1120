"""MLflow: a Python model, saved, then `mlflow models serve` with its own scoring server.

python -m servers.by_mlflow PORT
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from servers.scorer import Scorer


class Bench(mlflow.pyfunc.PythonModel):
    """Gets a pandas frame."""

    def load_context(self, context: Any) -> None:  # noqa: ARG002 - the name is theirs
        self._scorer = Scorer()

    def predict(self, context: Any, model_input: Any, params: Any = None) -> list[float]:  # noqa: ARG002
        columns = (model_input[name].tolist() for name in self._scorer.names)
        return self._scorer.of_values(list(zip(*columns, strict=True)))


def main(port: str) -> None:
    """Save the model and become the server."""
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=os.environ["BENCH_FOLDER"])) / "model"
    from servers.by_mlflow import Bench as model_class  # noqa: N813 - not as `__main__`

    mlflow.pyfunc.save_model(path, python_model=model_class(), pip_requirements=[])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(path)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main(sys.argv[1])
