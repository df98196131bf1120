"""Serve's data plane, as flags in a node's environment: HAProxy, repeats, ports.

`cluster.yaml` and `deploy/ray-node` say the same for clusters of several nodes.
"""

from pathlib import Path

RETRY_ON = "conn-failure empty-response junk-response response-timeout 502 503 504"
"""When HAProxy sends a request again. It can only where it holds all of the request before it sends
any of it, which is what AT_BACKENDS is for."""

AT_BACKENDS = """250ms
 http-request wait-for-body time 30s unless { path_end ServerReflectionInfo ModelStreamInfer }
 default-server"""
"""The value of a setting that ends up within a line of each backend of HAProxy, and two more lines.

It holds a request until all of it is there; who sends more slowly is answered 408. Open streams
have no end to wait for: both sides talk. Sessions of a server that is found to be down are not shut
(`on-marked-down shutdown-sessions`): it hangs up on callers whose requests could be sent again.
"""


def serve_flags(haproxy: Path, ports: range, replicas: tuple[int, int]) -> dict[str, str]:
    """Serve's data plane: HAProxy in front, requests straight into the replica's event loop.

    A request whose replica died is sent again to another: predictions and labels are idempotent.
    The second range of replica ports is Serve's gRPC.
    """
    middle = (replicas[0] + replicas[1]) // 2
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # without it, handles do not work in tasks and jobs, which have no event loop
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_RETRY_ON": RETRY_ON,
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        # a replica that hangs is found in 2 s, and what it holds goes to another after 10
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "10",
        # Serve's template has no place for a rule; this is within a line of each backend
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_DOWNINTER": AT_BACKENDS,
        # a request can be repeated only if all of it fits
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
        "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "s"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[7]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[8]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[9]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports[10]),
        # what a gRPC server takes in before anybody can look at it; Serve's default is 2 GB
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(64 << 20),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(middle - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(middle),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(replicas[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "40",
    }
