"""What a client can be asked for, as steps: how it is said to a server and how answers are read."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hapredict.client.attempts import Attempts, Deadline, Heard, Question, Send, Steps
from hapredict.client.pieces import Pieces
from hapredict.client.refusals import nonsense, value_of
from hapredict.client.values import plain
from hapredict.data.schema import Schema
from hapredict.errors import BadRequest, TemporaryError
from hapredict.serving.answers import Encoded, Prediction
from hapredict.serving.feedback import Feedback, encode_feedback
from hapredict.serving.protocols import V1Rows, WireProtocol
from hapredict.serving.repeats import KEY, KEY_MAX
from hapredict.serving.v2 import V2Binary

__all__ = ["Calls", "Feedback", "Model", "Prediction"]

NO_MORE: Mapping[str, str] = {}
_KEY = re.compile(rf"[\x21-\x7e]{{1,{KEY_MAX}}}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,100}")


@dataclass(frozen=True, slots=True)
class Model:
    """What the service says about its model. `versions` can be asked for by number."""

    name: str
    version: int
    versions: tuple[int, ...]
    schema: Schema


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls to one model. `names` makes ids of requests whose caller has none."""

    model_name: str
    attempts: Attempts
    names: Callable[[], str]

    def id(self, request_id: str | None) -> str:
        """The id of a call: the caller's or a new one. Raises ValueError for one of no header."""
        if request_id is None:
            return self.names()
        if not _REQUEST_ID.fullmatch(request_id):
            message = f"a request_id is 1 to 100 visible ASCII characters; got {request_id!r}"
            raise ValueError(message)
        return request_id

    def key(self, key: str | None) -> str:
        """What names a call's predictions: the caller's or a new one.

        Raises ValueError for one that cannot be an id.
        """
        if key is None:
            return self.names()
        if not _KEY.fullmatch(key):
            message = f"a key is 1 to {KEY_MAX} visible ASCII characters; got {key!r}"
            raise ValueError(message)
        return key

    def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        version: int | None,
        deadline_s: float | None,
        request_id: str | None,
        key: str | None,
    ) -> Steps[tuple[Prediction, ...]]:
        """One prediction a row."""
        deadline = self.attempts.deadline(deadline_s)
        body = msgspec.json.encode({"instances": rows}, enc_hook=plain)
        names = self.id(request_id), self.key(key)
        return (yield from self._predictions(V1Rows, Encoded(body), version, names, deadline))

    def predict_pieces(
        self,
        pieces: Pieces,
        version: int | None,
        deadline: Deadline | None,
        id_: str,
        key: str,
    ) -> Steps[None]:
        """Answer pieces of a frame until none is left; several may be at it, in one thread.

        Without a deadline of the frame each piece has the client's own. `id_` and `key` begin
        their ids and keys.
        """
        while (piece := pieces.take()) is not None:
            until = self.attempts.deadline(None) if deadline is None else deadline
            names = f"{id_}-{piece.start}", f"{key}-{piece.start}"
            try:
                sent = V2Binary.encode_request(pieces.columns(piece))
                said = yield from self._predictions(V2Binary, sent, version, names, until)
            except Exception as error:  # told with its rows, whatever it is
                pieces.failed(piece, error)
            else:
                pieces.answered(piece, said)

    def feedback(
        self,
        labels: Iterable[Feedback | Mapping[str, Any]],
        deadline_s: float | None,
        request_id: str | None,
    ) -> Steps[int]:
        """The number of labels that are durable."""
        deadline = self.attempts.deadline(deadline_s)
        body = Encoded(encode_feedback(labels, enc_hook=plain))
        path = f"/v1/models/{self.model_name}:feedback"
        answer = yield from self._post(path, body, self.id(request_id), deadline)
        count = value_of(answer).get("acknowledged")
        if not isinstance(count, int):
            raise nonsense(answer)
        return count

    def model(self, deadline_s: float | None, request_id: str | None) -> Steps[Model]:
        """The model's schema and versions."""
        path = f"/v1/models/{self.model_name}"
        question = Question("GET", path, self.id(request_id))
        answer = yield from self.attempts.ask(question, self.attempts.deadline(deadline_s))
        value = value_of(answer)
        if not value.get("ready"):
            message = f"model {self.model_name!r} has no version in service yet"
            raise TemporaryError(message)
        try:
            return Model(
                value["name"],
                value["model_version"],
                tuple(int(each["version"]) for each in value["model_version_status"]),
                Schema.from_json(value["schema"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise nonsense(answer) from error

    def ready(self) -> Steps[bool]:
        """Whether any node would answer predictions now; each is asked once."""
        for url in self.attempts.urls:
            path = f"{url}/v2/models/{self.model_name}/ready"
            said = yield Send("GET", path, {}, None, self.attempts.timeout_s)
            if isinstance(said, Heard) and said.status_code == 200:
                return True
        return False

    def _predictions(
        self,
        protocol: type[WireProtocol],
        sent: Encoded,
        version: int | None,
        names: tuple[str, str],
        deadline: Deadline,
    ) -> Steps[tuple[Prediction, ...]]:
        id_, key = names
        path = protocol.path if version is None else protocol.versioned_path
        path = path.format(model=self.model_name, version=version)
        answer = yield from self._post(path, sent, id_, deadline, {KEY.decode(): key})
        told = {name.encode(): value.encode() for name, value in answer.headers.items()}
        try:
            return protocol.decode_response(answer.content, told).predictions
        except BadRequest as error:
            raise nonsense(answer) from error

    def _post(
        self,
        path: str,
        sent: Encoded,
        id_: str,
        deadline: Deadline,
        more: Mapping[str, str] = NO_MORE,
    ) -> Steps[Heard]:
        headers = {"content-type": sent.kind.decode(), **more}
        headers |= {name.decode(): value.decode() for name, value in sent.headers}
        question = Question("POST", path, id_, sent.body, headers)
        return (yield from self.attempts.ask(question, deadline))
