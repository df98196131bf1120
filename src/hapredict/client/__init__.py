"""A client for people's own programs: predictions, labels and readiness over HTTP, without Ray.

    with Client("http://ingress:8000/orders", "orders") as client:
        first, *_ = client.predict([{"distance": 700, "carrier": "UA"}])
        answers = client.predict_frame(frame)  # a pandas DataFrame
        client.feedback([Feedback(first.prediction_id, "yes")])

`AsyncClient` is the same for programs that live in an event loop of asyncio.

What is asked and how trouble is answered is one set of generators that know no network
(`attempts.py`, `calls.py`); the two clients do what these say, one by waiting, one by awaiting.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hapredict.client.asynchronous import AsyncClient as AsyncClient
    from hapredict.client.attempts import PAUSE_MAX_S as PAUSE_MAX_S
    from hapredict.client.budget import RetryBudget as RetryBudget
    from hapredict.client.calls import Model as Model
    from hapredict.client.refusals import error_of as error_of
    from hapredict.client.sync import Client as Client
    from hapredict.serving.answers import Prediction as Prediction
    from hapredict.serving.feedback import Feedback as Feedback

__all__ = [
    "PAUSE_MAX_S",
    "AsyncClient",
    "Client",
    "Feedback",
    "Model",
    "Prediction",
    "RetryBudget",
    "error_of",
]


def __getattr__(name: str) -> Any:
    # imported on first use: who asks in one way does not pay for the other
    from importlib import import_module

    files = {"AsyncClient": "asynchronous", "Client": "sync", "Model": "calls"}
    files |= {"PAUSE_MAX_S": "attempts", "RetryBudget": "budget", "error_of": "refusals"}
    files |= {"Prediction": "calls", "Feedback": "calls"}
    if name not in files:
        raise AttributeError(f"module 'hapredict.client' has no attribute {name!r}")
    return getattr(import_module(f"hapredict.client.{files[name]}"), name)
