"""The servers that `serve_speed.py` compares: how each is started, asked and read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from hapredict.sections_live import ServingSpec

ROOT = Path(__file__).parents[1]
ONE, MANY = (1,), (1, 32, 256)

Rows = Sequence[Mapping[str, Any]]


def _instances(rows: Rows) -> Any:
    return {"instances": rows}


def _records(rows: Rows) -> Any:
    return {"dataframe_records": rows}


def _tensors(rows: Rows) -> Any:
    """The Open Inference Protocol: one tensor a column."""
    return {
        "inputs": [
            {
                "name": name,
                "shape": [len(rows), 1],
                "datatype": "BYTES" if isinstance(value, str) else "FP64",
                "data": [row[name] for row in rows],
            }
            for name, value in rows[0].items()
        ]
    }


def _predictions(answer: Any) -> list[float]:
    return answer["predictions"]


def _hapredict_scores(answer: Any) -> list[float]:
    return [row["score"] for row in answer["predictions"]]


def _tensor(answer: Any) -> list[float]:
    return answer["outputs"][0]["data"]


@dataclass(frozen=True)
class Server:
    """A line of the table.

    In `command` PORT stands for the port; it runs in the environment `venv` of the repository, or
    in hapredict's own.
    """

    name: str
    title: str
    command: tuple[str, ...]
    venv: str = ".venv-bench-serve"
    path: str = "/predict"
    body: Callable[[Rows], Any] = _instances
    scores: Callable[[Any], list[float]] = _predictions
    sizes: tuple[int, ...] = ONE
    """Rows a request."""
    tail_s: float = 0.0
    """Seconds after a load in which the server still works off what the load has left behind."""
    starter: bool = False
    """The process that is started only starts and ends others."""

    def encoded(self, rows: Rows) -> str:
        """The body that asks for these rows, on one line."""
        return json.dumps(self.body(rows), separators=(",", ":"))


def _by(module: str, *more: str) -> tuple[str, ...]:
    return ("-m", f"servers.by_{module}", "PORT", *more)


def _hapredict(plane: str) -> Server:
    return Server(
        f"hapredict-{plane}",
        f"**hapredict**, data plane `{plane}`",
        _by("hapredict", plane),
        venv="",
        path="/bench/v1/models/bench:predict",
        scores=_hapredict_scores,
        sizes=MANY,
        tail_s=2.5,  # monitoring.report_s is 2, and then the monitor reads
        starter=True,
    )


def _planes() -> tuple[str, ...]:
    """What `serving.data_plane` can be."""
    field = ServingSpec.model_fields.get("data_plane")
    return get_args(field.annotation) if field is not None else ("standard",)


def _granian() -> tuple[str, ...]:
    return (
        *("-m", "granian", "--interface", "asgi", "--factory", "--no-access-log"),
        *("--workers", "1", "--host", "127.0.0.1", "--port", "PORT", "servers.by_asgi:make"),
    )


def _bentoml() -> tuple[str, ...]:
    return (
        *("-m", "bentoml", "serve", "servers.by_bentoml:Bench"),
        *("--host", "127.0.0.1", "--port", "PORT"),
    )


SERVERS = (
    Server("loop", "event loop alone: the ceiling", _by("loop"), sizes=MANY),
    *map(_hapredict, _planes()),
    Server("asgi", "uvicorn, bare ASGI", _by("asgi")),
    Server("granian", "granian, the same bare ASGI", _granian()),
    Server("fastapi", "uvicorn, FastAPI by hand", _by("fastapi"), sizes=MANY),
    Server(
        "kserve",
        "KServe SDK, v1",
        _by("kserve"),
        venv=".venv-bench-kserve",
        path="/v1/models/bench:predict",
    ),
    Server(
        "mlserver",
        "MLServer, v2",
        _by("mlserver"),
        venv=".venv-bench-mlserver",
        path="/v2/models/bench/infer",
        body=_tensors,
        scores=_tensor,
    ),
    Server("bentoml", "BentoML", _bentoml(), scores=lambda answer: answer),
    Server("litserve", "LitServe", _by("litserve")),
    Server("mlflow", "MLflow `models serve`", _by("mlflow"), path="/invocations", body=_records),
    Server(
        "ray-100",
        "Ray Serve, FastAPI by hand, 100 in progress",
        _by("ray", "100"),
        venv="",
        starter=True,
    ),
    Server("ray", "Ray Serve, FastAPI by hand, defaults", _by("ray"), venv="", starter=True),
)
