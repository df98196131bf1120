"""What stands in front of a cluster with several ingress nodes: one HAProxy, as a site would run.

It sends a request to a node whose ingress answers `/-/healthz`, and again to another node where the
first one does not answer or is gone: predictions and labels are idempotent.
"""

CONFIG = """\
global
  maxconn 4096
  nbthread 1
  tune.bufsize 131072
  stats socket {folder}/admin mode 600 level admin
defaults
  mode http
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response junk-response response-timeout 500 502 503 504
  timeout connect 500ms
  timeout client 60s
  timeout server {answer_s:g}s
  timeout http-keep-alive 60s
  timeout check 1s
frontend clients
  bind {address}
  default_backend nodes
backend nodes
  balance leastconn
  http-request wait-for-body time 30s
  option httpchk GET /-/healthz
  default-server check inter 500ms fastinter 250ms fall 2 rise 2
{servers}
"""
"""Small bodies are held whole before any of it is sent, so that they can be sent again."""


def config(folder: str, address: str, servers: dict[str, str], answer_s: float) -> str:
    """HAProxy's configuration: `servers` are the ingress nodes' addresses by name.

    A node that holds a request for `answer_s` seconds loses it to another.
    """
    lines = "\n".join(f"  server {name} {where}" for name, where in servers.items())
    return CONFIG.format(folder=folder, address=address, servers=lines, answer_s=answer_s)
