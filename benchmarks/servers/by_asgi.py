"""A bare ASGI application with orjson; it checks nothing that it is sent.

python -m servers.by_asgi PORT                                    under uvicorn
python -m granian --interface asgi --factory servers.by_asgi:make    under granian
"""

import sys
from typing import Any

import orjson
from servers.scorer import Scorer

HEADERS = [(b"content-type", b"application/json")]


def make() -> Any:
    """The application."""
    scorer = Scorer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = orjson.dumps({"predictions": scorer.of_rows(orjson.loads(body)["instances"])})
        length = (b"content-length", str(len(answer)).encode())
        start = {"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]}
        await send(start)
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        make(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False
    )
