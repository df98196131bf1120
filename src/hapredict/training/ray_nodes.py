"""What is free on the nodes of the cluster now."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private.state import available_resources_per_node

from hapredict.training.scale import Node

NODE_ID_LABEL = "ray.io/node-id"
"""A label that Ray gives every node; a selector by it holds; affinity is but a wish."""

_KNOCK_S = 2.0


def head_node() -> str:
    """The id of the head node; another one after each restart of it."""
    return next(
        str(node["NodeID"])
        for node in ray.nodes()
        if node["Alive"] and HEAD_NODE_RESOURCE_NAME in node["Resources"]
    )


def free_nodes() -> list[Node]:
    """The nodes that live as far as Ray knows, and what is free on each."""
    free = available_resources_per_node()
    return [_node(str(node["NodeID"]), free) for node in ray.nodes() if node["Alive"]]


def silent_nodes() -> tuple[str, ...]:
    """Ids of nodes that Ray counts as alive although nothing accepts a connection there.

    It takes Ray many seconds to notice that a node is gone, and until then it would place workers
    on it.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(min(32, len(alive) or 1)) as pool:
        heard = list(pool.map(_answers, alive))
    return tuple(str(n["NodeID"]) for n, answers in zip(alive, heard, strict=True) if not answers)


def _node(name: str, free: Mapping[str, Mapping[str, float]]) -> Node:
    here = free.get(name, {})
    return Node(name, float(here.get("CPU", 0.0)), float(here.get("GPU", 0.0)))


def _answers(node: Mapping[str, Any]) -> bool:
    address = (node["NodeManagerAddress"], int(node["NodeManagerPort"]))
    try:
        with socket.create_connection(address, timeout=_KNOCK_S):
            return True
    except OSError:
        return False
