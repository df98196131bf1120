"""The client for programs in an event loop of asyncio: each call is awaited."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from hapredict.client.attempts import Attempts, Heard, Lost, Pause, Said, Send, Steps
from hapredict.client.budget import RetryBudget
from hapredict.client.calls import Calls, Model
from hapredict.client.http import Left, heard, limits, lost, new_id
from hapredict.client.pieces import Pieces
from hapredict.serving.answers import Prediction
from hapredict.serving.feedback import Feedback

if TYPE_CHECKING:
    from pandas import DataFrame

PIECES_AT_ONCE = 4
"""Requests of one frame that are under way together."""


class AsyncClient:
    """`Client`, awaited: the same calls with the same promises, in one event loop.

    Calls may run side by side. Cancelling one ends its request, and with it that request's
    connection; the other calls and their connections go on.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        timeout_s: float = 10.0,
        deadline_s: float | None = None,
        rounds_max: int = 4,
        pause_s: float = 0.1,
        retry_budget: RetryBudget | None = None,
        connections_max: int = 100,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Client`."""
        attempts = Attempts(
            url,
            timeout_s=timeout_s,
            rounds_max=rounds_max,
            pause_s=pause_s,
            deadline_s=deadline_s,
            budget=retry_budget,
            clock=clock,
            chance=chance,
        )
        self._calls = Calls(model, attempts, new_id)
        self._sleep = sleep
        self._clock = clock
        self._http = httpx.AsyncClient(
            timeout=timeout_s, headers=headers, transport=transport, limits=limits(connections_max)
        )

    async def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
        prediction_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """As `Client.predict`."""
        return await self._drive(
            self._calls.predict(rows, version, deadline_s, request_id, prediction_key)
        )

    async def predict_frame(
        self,
        frame: "DataFrame",
        *,
        version: int | None = None,
        rows_a_request: int = 1000,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> "DataFrame":
        """As `Client.predict_frame`, with up to `PIECES_AT_ONCE` requests under way.

        The first piece that fails cancels the others; some of those may have been answered.
        """
        pieces = Pieces(frame, rows_a_request)
        until = None if deadline_s is None else self._calls.attempts.deadline(deadline_s)
        id_, key = self._calls.id(request_id), self._calls.key(None)
        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(PIECES_AT_ONCE, -(-len(frame) // rows_a_request))):
                    steps = self._calls.predict_pieces(pieces, version, until, id_, key)
                    group.create_task(self._drive(steps))
        except ExceptionGroup as errors:  # the caller asked for one thing and gets one error
            failed = errors.exceptions[0]
        if failed is not None:
            raise failed
        return pieces.frame()

    async def feedback(
        self,
        labels: Iterable[Feedback | Mapping[str, Any]],
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> int:
        """As `Client.feedback`."""
        return await self._drive(self._calls.feedback(labels, deadline_s, request_id))

    async def model(
        self, *, deadline_s: float | None = None, request_id: str | None = None
    ) -> Model:
        """As `Client.model`."""
        return await self._drive(self._calls.model(deadline_s, request_id))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._drive(self._calls.ready())

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _drive(self, steps: Steps[Said]) -> Said:
        said: Heard | Lost | None = None
        while True:
            try:
                step = steps.send(said)
            except StopIteration as end:
                value: Said = end.value
                return value
            if isinstance(step, Pause):
                await self._sleep(step.pause_s)
                said = None
            else:
                said = await self._send(step)

    async def _send(self, step: Send) -> Heard | Lost:
        left = Left(step.within_s, self._clock)
        try:
            async with asyncio.timeout(step.within_s):
                answer = await self._http.request(
                    step.method,
                    step.url,
                    content=step.body,
                    headers=step.headers,
                    extensions={"timeout": left},
                )
            return heard(answer, answer.content)
        except TimeoutError:
            return left.lost(step.url)
        except httpx.RequestError as error:
            return lost(error, step.url)
