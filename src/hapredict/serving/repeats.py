"""Requests that are sent again: one with a key that was answered gets the same answer once more.

A caller who hears nothing does not know whether he was answered. With a key of his own he can ask
again: the key becomes the `prediction_id`, so that whichever replica answers, and however often,
it is one prediction to everybody who reads the journal; and the replica that answered already
neither asks its model nor records anything anew.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from hapredict.errors import BadRequest
from hapredict.serving.answers import Headers
from hapredict.serving.replies import Reply

KEY = b"idempotency-key"
"""The header, and over gRPC the metadata, that carries the caller's key."""
KEY_MAX = 190
"""Characters of a key; a row's place is put behind it, and an id has at most 200."""
REPLIES_MAX = 20_000
BYTES_MAX = 16 << 20
"""What a replica remembers: so many replies, and so many bytes of them."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % KEY_MAX)
_REPLAYED: Headers = ((b"idempotent-replayed", b"true"),)
_REPLY_BYTES = 500
"""What remembering a reply takes beside its body, about."""

Replied = Callable[[Reply | Exception], None]


def read_key(headers: Mapping[bytes, bytes]) -> str:
    """The caller's key; "" without one. Raises BadRequest for one that cannot be an id."""
    sent = headers.get(KEY)
    if sent is None:
        return ""
    if len(sent) > 2 and sent[:1] == sent[-1:] == b'"':  # as structured headers write it
        sent = sent[1:-1]
    if not _KEY.fullmatch(sent):
        raise BadRequest(f"Idempotency-Key must have 1 to {KEY_MAX} visible ASCII characters")
    return sent.decode()


def key_among(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The key in a gRPC call's metadata, as `read_key`."""
    name = KEY.decode()
    sent = [value for key, value in metadata if key == name]
    value = sent[-1] if sent else None
    if value is None:
        return ""
    return read_key({KEY: value.encode() if isinstance(value, str) else value})


class _Known(msgspec.Struct, eq=False):
    asked: bytes
    waiting: list[Replied]
    reply: Reply | None = None


class Repeats:
    """The last answers that had a key. For one thread."""

    def __init__(self, *, replies_max: int = REPLIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._replies_max = replies_max
        self._bytes_max = bytes_max
        self._known: dict[str, _Known] = {}
        self._answered: deque[str] = deque()
        self._bytes = 0

    def first(self, key: str, asked: bytes, replied: Replied) -> Replied | None:
        """Who is to be told of the answer to a request that nobody asked yet.

        None for one that is sent again: `replied` gets the answer of the first, now or when it is
        there. `asked` stands for all of the request. Raises BadRequest if the key was another's.
        """
        known = self._known.get(key)
        if known is None:
            self._known[key] = found = _Known(asked, [])
            return lambda said: self._tell(key, found, replied, said)
        if known.asked != asked:
            message = f"Idempotency-Key {key!r} was sent with another request; use a new one"
            raise BadRequest(message, 409)
        if known.reply is None:
            known.waiting.append(replied)
        else:
            replied(known.reply)
        return None

    def forget(self, key: str) -> None:
        """The first request with the key was refused before anybody was asked."""
        del self._known[key]

    def _tell(self, key: str, known: _Known, replied: Replied, said: Reply | Exception) -> None:
        again = said
        if isinstance(said, Reply):
            # the record belongs to the first
            known.reply = again = Reply(said.status, said.body, said.kind, said.headers + _REPLAYED)
            self._answered.append(key)
            self._bytes += len(said.body) + _REPLY_BYTES
            self._make_room()
        else:
            del self._known[key]
        replied(said)
        for other in known.waiting:
            other(again)
        known.waiting = []

    def _make_room(self) -> None:
        while len(self._answered) > self._replies_max or self._bytes > self._bytes_max:
            gone = self._known.pop(self._answered.popleft())
            if gone.reply is not None:
                self._bytes -= len(gone.reply.body) + _REPLY_BYTES
