"""The client for programs that wait: each call returns its value or raises."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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


class Client:
    """Asks one model at one or several ingress nodes. Safe to use from several threads.

    What fails for a time is asked again: at once of the next node, and after all of them with a
    growing, jittered pause. That does no harm: all attempts of a call have one key of their own,
    which becomes their `prediction_id`, so that they are one prediction whoever answered them. A
    label that arrives twice counts once, by its `prediction_id`.

    All attempts of a call carry one X-Request-Id, under which servers log their faults: the
    `request_id` that the caller gives (1 to 100 visible ASCII characters) or one of the client's;
    errors have it in their notes. Each attempt says by X-Deadline-Ms how long it is waited for.
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
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` is where the app is mounted, or several such places for fail-over.

        A request asks every node once a round, for `timeout_s` each, and gives up after
        `rounds_max` rounds. Before the next round it pauses up to `pause_s`, doubled each time,
        and at least as long as a Retry-After says. With `deadline_s`, which each call may say
        anew, all of that has so long together: no pause and no attempt begins that cannot end in
        time, and TimedOut names the last trouble.

        Nodes that answer that they cannot now, or do not answer in time, are asked again within
        `retry_budget`; connections that fail or break do not count against it. At most
        `connections_max` connections are open, and kept for the next requests. `headers` go with
        every request.
        """
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
        self._http = httpx.Client(
            timeout=timeout_s, headers=headers, transport=transport, limits=limits(connections_max)
        )

    def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
        prediction_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """One prediction a row; `version` asks one loaded version instead of who serves.

        `prediction_key` (1 to 190 visible ASCII characters) names the prediction in a way that the
        caller knows again: it is the `prediction_id` of a single row, and with `-0`, `-1`... behind
        it that of each of several. A key names one request for good.

        None and NaN are missing values. Raises BadRequest (SchemaMismatch with the faulty fields),
        UnknownName, or a TemporaryError when no node answered in all rounds or in time.
        """
        return self._drive(
            self._calls.predict(rows, version, deadline_s, request_id, prediction_key)
        )

    def predict_frame(
        self,
        frame: "DataFrame",
        *,
        version: int | None = None,
        rows_a_request: int = 1000,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> "DataFrame":
        """The predictions for a pandas frame, one row for each of its rows, under its index.

        Columns: `prediction_id`, `score` (of several classes `score_<class>` each), `decision`,
        `model_version`, `served_by`, and those of `uncertainty`, `q0.1`... that any row has. An
        empty frame is answered without a request, with `score`, for its classes are not known then.

        The frame's columns are the model's fields; None, NaN, NA and NaT are missing. They go as
        tensors, numbers and booleans as bytes; an object column that mixes texts with others goes
        as texts. `rows_a_request` rows go at once; where a server takes fewer (413), pieces are
        halved until they fit. The request's ids are `request_id` with the first row's position.
        `deadline_s` is that of the whole frame, the client's own that of each request.

        Raises what `predict` raises, with the rows of its piece, from and to, as `error.rows`,
        (2000, 3000) for `frame.iloc[2000:3000]`; problems count rows from the frame's first. Rows
        before it have been answered, and recorded, then. Raises ValueError for columns that are no
        names, TypeError for values that have no form in a request.
        """
        pieces = Pieces(frame, rows_a_request)
        until = None if deadline_s is None else self._calls.attempts.deadline(deadline_s)
        id_ = self._calls.id(request_id)
        key = self._calls.key(None)
        self._drive(self._calls.predict_pieces(pieces, version, until, id_, key))
        return pieces.frame()

    def feedback(
        self,
        labels: Iterable[Feedback | Mapping[str, Any]],
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> int:
        """Say what was observed. The labels are durable when this returns their number.

        A mapping holds `prediction_id`, `label` and perhaps `at`, the time of the observation.

        Raises BadRequest, or a TemporaryError; then they may or may not have been taken, and may
        be sent again: the first label of a prediction counts.
        """
        return self._drive(self._calls.feedback(labels, deadline_s, request_id))

    def model(self, *, deadline_s: float | None = None, request_id: str | None = None) -> Model:
        """The model's schema and versions. Raises UnknownName or a TemporaryError."""
        return self._drive(self._calls.model(deadline_s, request_id))

    def ready(self) -> bool:
        """Whether any node would answer predictions now. It is asked once, without retries."""
        return self._drive(self._calls.ready())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drive(self, steps: Steps[Said]) -> Said:
        said: Heard | Lost | None = None
        while True:
            try:
                step = steps.send(said)
            except StopIteration as end:
                value: Said = end.value
                return value
            if isinstance(step, Pause):
                self._sleep(step.pause_s)
                said = None
            else:
                said = self._send(step)

    def _send(self, step: Send) -> Heard | Lost:
        left = Left(step.within_s, self._clock)
        try:
            with self._http.stream(
                step.method,
                step.url,
                content=step.body,
                headers=step.headers,
                extensions={"timeout": left},
            ) as answer:
                parts = []
                for part in answer.iter_bytes():
                    left.check(answer.request)
                    parts.append(part)
                return heard(answer, b"".join(parts))
        except httpx.RequestError as error:
            return lost(error, step.url)
