"""Routes that ask for no prediction: health, metadata, the OpenAPI document and its page."""

from collections.abc import Callable
from typing import Any

from hapredict.serving import descriptions, docs_page, openapi
from hapredict.serving.descriptions import Described
from hapredict.serving.exchange import Call, Handlers, fixed
from hapredict.serving.replies import Reply, json_reply

_PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


def routes(replica: Described, stopping: Callable[[], bool]) -> list[tuple[str, Handlers]]:
    """Paths with their placeholders, and who answers them; `stopping`: whether the app ends."""

    async def v1_model(_call: Call) -> Reply:
        return json_reply(descriptions.v1_model(replica))

    async def v1_version(call: Call) -> Reply:
        return json_reply(descriptions.v1_version(replica, call.version))

    async def v2_model(call: Call) -> Reply:
        return json_reply(descriptions.v2_model(replica, call.version))

    async def v2_ready(call: Call) -> Reply:
        descriptions.check_version(replica, call.version)
        ready = replica.ready and not stopping()
        return json_reply({"name": replica.model, "ready": ready}, 200 if ready else 503)

    async def readiness(_call: Call) -> Reply:
        said = descriptions.readiness(replica, stopping=stopping())
        return json_reply(said, 200 if said["ready"] else 503)

    async def document(call: Call) -> Reply:
        return json_reply(described(call.root))

    async def page(call: Call) -> Reply:
        shown = docs_page.page(described(call.root)).encode()
        policy = ((b"content-security-policy", _PAGE_POLICY),)
        return Reply(200, shown, b"text/html; charset=utf-8", policy)

    def described(root: str) -> dict[str, Any]:
        spec = replica.spec
        return openapi.document(
            replica.model,
            replica.about(),
            time_required=spec.monitoring.clock == "event",
            rows_max=spec.serving.rows_max,
            root=root,
        )

    v1, v2 = "/v1/models/{model}", "/v2/models/{model}"
    return [
        ("/v1/models", {"GET": fixed(descriptions.v1_models(replica))}),
        (v1, {"GET": v1_model}),
        (v1 + "/versions/{version}", {"GET": v1_version}),
        ("/v2", {"GET": fixed(descriptions.v2_server())}),
        (v2, {"GET": v2_model}),
        (v2 + "/versions/{version}", {"GET": v2_model}),
        (v2 + "/ready", {"GET": v2_ready}),
        (v2 + "/versions/{version}/ready", {"GET": v2_ready}),
        ("/v2/health/live", {"GET": fixed({"live": True})}),
        ("/v2/health/ready", {"GET": readiness}),
        ("/livez", {"GET": fixed({"live": True})}),
        ("/readyz", {"GET": readiness}),
        ("/healthz", {"GET": readiness}),
        ("/openapi.json", {"GET": document}),
        ("/docs", {"GET": page}),
    ]
