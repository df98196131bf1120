"""A bucket in this process that speaks as much of S3 as a store needs.

Conditional writes, reads, deletes and lists in pages of ten. It checks no signature. What it is
for is our side of the conversation: whether conflicts, missing objects and failures that arrive
over HTTP become the errors that callers know.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

PAGE = 10
"""Objects a page of a list."""


class Bucket(ThreadingHTTPServer):
    """Objects by key, and how many of the next requests fail."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.failures = 0
        """Answers of status 500 that come next."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Bucket]:
    """A bucket that answers until the block ends."""
    bucket = Bucket()
    thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield bucket
    finally:
        bucket.shutdown()
        thread.join()
        bucket.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Bucket

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if self._fails():
            return
        if "list-type" in query:
            self._answer(200, self._list({name: values[0] for name, values in query.items()}))
            return
        with self.server.lock:
            data = self.server.objects.get(self._key)
        self._answer(404 if data is None else 200, data or b"")

    do_HEAD = do_GET  # noqa: N815 - the name is theirs

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails():
            return
        with self.server.lock:
            taken = self.headers["If-None-Match"] == "*" and self._key in self.server.objects
            if not taken:
                self.server.objects[self._key] = data
        self._answer(412 if taken else 200)

    def do_DELETE(self) -> None:
        if self._fails():
            return
        with self.server.lock:
            self.server.objects.pop(self._key, None)
        self._answer(204)

    def do_POST(self) -> None:
        """Bulk delete, the only POST that a store sends."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self._fails():
            return
        keys = [node.text or "" for node in _parsed(body) if _is_key(node)]
        with self.server.lock:
            for key in keys:
                self.server.objects.pop(key, None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is theirs
        """Nothing: a test's output is the test's."""

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def _fails(self) -> bool:
        with self.server.lock:
            failing = self.server.failures > 0
            self.server.failures -= failing
        if failing:
            self._answer(500)
        return failing

    def _list(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        with self.server.lock:
            keys = sorted(self.server.objects.items())
        found: dict[str, str] = {}
        for key, data in keys:
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                name = prefix + rest.partition(delimiter)[0] + delimiter
                entry = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            else:
                name = key
                entry = (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            if name > after:
                found[name] = entry
        page = list(found)[:PAGE]
        more = len(found) > PAGE
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = "".join(found[name] for name in page)
        return (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{body}</ListBucketResult>"
        ).encode()

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _parsed(body: str) -> Iterator[ET.Element]:
    return ET.fromstring(body).iter()  # noqa: S314 - only our own store speaks to it


def _is_key(node: ET.Element) -> bool:
    return node.tag.rpartition("}")[2] == "Key"
