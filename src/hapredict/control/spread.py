"""Which replica should move so that no node holds more than its share.

Serve spreads replicas when it starts them and never looks again: after the loss of a node all of a
model's replicas may lie on the nodes that were left, and stay there when it is back. The next loss
would then be an outage. A limit to replicas a node would be kept to when they are started, but
leaves no room for the second set of a rolling update.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOOKS = 3
"""Looks in a row that must say the same before anybody moves: nodes come and go for seconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica runs."""

    source: str
    """The replica's name for itself; another one after each start."""
    node: str


@dataclass(frozen=True, slots=True)
class Move:
    """A replica that should leave its node, and why."""

    source: str
    reason: str


def next_move(
    places: Sequence[Place], room: Mapping[str, int], wanted: int, titles: Mapping[str, str]
) -> Move | None:
    """The replica that should leave, or None while all is well or something is still starting.

    `room` is how many more replicas each live node could take, `wanted` how many replicas there
    should be, `titles` are names of nodes for people. One replica moves at a time, and only if a
    node with room has at least two fewer.
    """
    if len(places) < max(wanted, 2):
        return None
    held = Counter(place.node for place in places)
    fullest, most = min(held.items(), key=lambda item: (-item[1], item[0]))
    free = {node: held[node] for node, more in room.items() if more > 0 and node != fullest}
    if not free:
        return None
    emptiest, least = min(free.items(), key=lambda item: (item[1], item[0]))
    if most - least < 2:
        return None
    leaves = min(place.source for place in places if place.node == fullest)
    shown = {node: titles.get(node, node) for node in (fullest, emptiest)}
    return Move(
        leaves,
        f"{most} of {len(places)} replicas are on node {shown[fullest]} and {least} on "
        f"{shown[emptiest]}, which has room: one moves, so that the loss of a node costs less",
    )


class Settled:
    """Believes a move that was proposed LOOKS times in a row."""

    def __init__(self) -> None:
        self._last: Move | None = None
        self._times = 0

    def told(self, move: Move | None) -> Move | None:
        """The move, once it is settled; it is then proposed afresh."""
        same = move is not None and self._last is not None and move.source == self._last.source
        self._times = self._times + 1 if same else 1
        self._last = move
        if move is None or self._times < LOOKS:
            return None
        self._last, self._times = None, 0
        return move
