"""FastAPI as its tutorial has it: a pydantic model of the body, one coroutine, uvicorn.

python -m servers.by_fastapi PORT
"""

import sys
from operator import attrgetter

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from servers.scorer import Scorer


class Row(BaseModel):
    """A row; a value may be missing."""

    n0: float | None = None
    n1: float | None = None
    n2: float | None = None
    n3: float | None = None
    n4: float | None = None
    n5: float | None = None
    n6: float | None = None
    n7: float | None = None
    c0: str | None = None
    c1: str | None = None
    c2: str | None = None
    c3: str | None = None
    c4: str | None = None
    c5: str | None = None


class Body(BaseModel):
    """What is sent."""

    instances: list[Row]


class Answer(BaseModel):
    """What comes back."""

    predictions: list[float]


def make() -> FastAPI:
    """The application."""
    scorer = Scorer()
    values = attrgetter(*scorer.names)
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Body) -> Answer:
        return Answer(predictions=scorer.of_values([values(row) for row in body.instances]))

    return app


if __name__ == "__main__":
    uvicorn.run(
        make(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False
    )
