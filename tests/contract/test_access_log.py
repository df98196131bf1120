"""What both data planes write into the access log."""

import asyncio
import json

from hapredict.serving.access import AccessLog
from hapredict.serving.asgi import App
from tests.contract.test_data_planes import GOOD, V1, http, plane, planes
from tests.support.bundles import MODEL
from tests.support.planes import Caller, listening
from tests.support.serving import Clock, FakeReplica


@planes
def test_both_planes_leave_the_same_lines_in_the_access_log(name, tmp_path):
    file = tmp_path / "access.jsonl"
    log = AccessLog(MODEL, file, errors_only=False, bytes_max=1 << 20)
    app = App(FakeReplica(), clock=Clock(), access=log)

    async def talk():
        async with listening(app, plane(name, app)) as (port, _):
            caller = await Caller.at(port)
            bad = http("POST", V1, b"{}", headers=["X-Request-Id: theirs"])
            await caller.send([http("POST", V1, GOOD, headers=["X-Request-Id: mine"]), bad])
            await caller.hear(2)
            await caller.leave()

    asyncio.run(talk())
    said = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["request_id"], one["status"], one.get("rows")) for one in said] == [
        ("mine", 200, 2),
        ("theirs", 400, None),
    ]
    assert {one["route"] for one in said} == {"/v1/models/{model}:predict"}
    assert said[0]["version"] == "1"
