"""The fast data plane is taken up where uvicorn is the one that it was written for, else not."""

import asyncio

import pytest
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hapredict.serving import fast_http
from hapredict.serving.asgi import App
from tests.contract.test_data_planes import REQUESTS, ROOT, app_of, plane
from tests.support.planes import Caller, listening


class TestInstalling:
    @pytest.fixture(autouse=True)
    def kept(self, monkeypatch):
        monkeypatch.setattr(auto, "AutoHTTPProtocol", HttpToolsProtocol)

    def test_what_uvicorn_starts_next_is_fast(self):
        assert fast_http.install(app_of(), ROOT) == ""
        assert issubclass(auto.AutoHTTPProtocol, fast_http.FastProtocol)

    def test_another_uvicorn_is_left_as_it_is(self, monkeypatch):
        monkeypatch.setattr(fast_http.uvicorn, "__version__", "9.9.9")
        assert "9.9.9 is not one of 0.54.x" in fast_http.install(app_of(), ROOT)
        assert auto.AutoHTTPProtocol is HttpToolsProtocol

    def test_a_changed_method_is_noticed(self, monkeypatch):
        monkeypatch.setattr(HttpToolsProtocol, "on_body", lambda self, body, more: None)
        assert fast_http.install(app_of(), ROOT).endswith("another HttpToolsProtocol.on_body")
        assert auto.AutoHTTPProtocol is HttpToolsProtocol

    def test_an_app_of_another_loop_is_not_called_from_this_one(self, monkeypatch):
        async def run():
            app = app_of()
            monkeypatch.setattr(App, "loop", None)
            async with listening(app, plane("fast", app)) as (port, _):
                caller = await Caller.at(port)
                monkeypatch.setattr(app, "direct", None)
                await caller.send([REQUESTS["named"]])
                await caller.hear(1)
                await caller.leave()
            return caller.got

        assert [reply.status for reply in asyncio.run(run())] == [200]
