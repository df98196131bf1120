"""Moves replicas apart, one at a time: the edge of `spread.py`.

A replica that is told to leave fails its health check, upon which Serve drains it and starts
another in its place; nothing of a model's traffic is lost by that.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray._private.state import available_resources_per_node

from hapredict.control.spread import Place, Settled, next_move
from hapredict.serving.ray_serve import replica_states

log = logging.getLogger(__name__)

LOOK_S = 3.0
"""Seconds between two looks."""
REST_S = 30.0
"""Seconds after a move before the next look: a replica starts and another one drains."""
_ANSWER_S = 5.0


def keep_apart(app: str, num_cpus: Callable[[], float], leads: Callable[[], bool]) -> None:
    """Look after a model's or pool's replicas in a thread of its own, whenever `leads()`.

    `num_cpus` says how many processors each replica takes.
    """
    work = _Spreading(app, num_cpus, leads)
    threading.Thread(target=work.run, name="spread", daemon=True).start()


class _Spreading:
    def __init__(self, app: str, num_cpus: Callable[[], float], leads: Callable[[], bool]) -> None:
        self._app = app
        self._num_cpus = num_cpus
        self._leads = leads
        self._settled = Settled()
        self._told = ""

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                if self._leads() and self._look():
                    time.sleep(REST_S)
            except Exception as error:  # nothing of this may end control
                message = f"{type(error).__name__}: {error}"
                if message != self._told:
                    log.warning("cannot look where replicas are: %s", message)
                self._told = message

    def _look(self) -> bool:
        """Whether a replica was told to leave."""
        nodes = {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}
        if len(nodes) < 2:
            return False
        states = replica_states(self._app)
        if set(states) != {"RUNNING"}:  # one is coming or going
            self._settled.told(None)
            return False
        handle: Any = serve.get_app_handle(self._app)
        told = handle.broadcast("place").results(timeout_s=_ANSWER_S)
        places = [Place(**one) for one in told]
        titles = {node: str(one["NodeManagerAddress"]) for node, one in nodes.items()}
        move = next_move(places, _room(self._num_cpus(), list(nodes)), states["RUNNING"], titles)
        move = self._settled.told(move)
        if move is None:
            return False
        log.warning("%s", move.reason)
        handle.broadcast("leave", move.source).results(timeout_s=_ANSWER_S)
        return True


def _room(each: float, nodes: list[str]) -> dict[str, int]:
    """How many more replicas each node could take."""
    free = available_resources_per_node()
    cpus = {node: float(free.get(node, {}).get("CPU", 0.0)) for node in nodes}
    # a node without processors is the head, which serves nothing
    return {node: int(found / each) if each else int(found > 0) for node, found in cpus.items()}
