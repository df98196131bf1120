"""An event loop, httptools and orjson, and nothing else: the ceiling.

python -m servers.by_loop PORT

No routes, no checks, no limits, no errors, no records: whatever is posted is scored.
"""

import asyncio
import sys

import httptools
import orjson
import uvloop
from servers.scorer import Scorer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Connection(asyncio.Protocol):
    """One caller; answers come in the order of requests, since each is answered at once."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        rows = orjson.loads(b"".join(self._parts))["instances"]
        self._parts.clear()
        answer = orjson.dumps({"predictions": self._scorer.of_rows(rows)})
        self._transport.write(HEAD % (len(answer), answer))


async def serve(port: int) -> None:
    """Answer until killed."""
    scorer = Scorer()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(scorer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
