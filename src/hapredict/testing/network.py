"""A network of its own for each node: a bridge on this machine, and a cable to each node.

Nodes live in network namespaces, so each has its own address and all its ports to itself, and a
cable that is pulled cuts nobody else off. It needs the right to make namespaces (root, or
CAP_NET_ADMIN and CAP_SYS_ADMIN) and touches no interface but its own.
"""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from pyroute2 import IPRoute, NetNS, netns
from pyroute2.netlink.exceptions import NetlinkError

from hapredict.errors import NotPermitted

Direction = Literal["both", "out", "in"]
"""Which way of a cable is cut, seen from the node."""

HERE = ""
"""This machine, on the bridge."""

NOBODY = "02:00:00:00:00:01"
NUD_PERMANENT = 0x80

NAMES_MAX = 8
"""Characters of a network's name: Linux allows 15 for an interface."""


class Network:
    """A bridge and the nodes on it. Raises NotPermitted where namespaces are not permitted."""

    def __init__(self, name: str) -> None:
        """`name` has 1 to 8 letters and digits, and no other network here has it."""
        if not (name.isalnum() and len(name) <= NAMES_MAX):
            raise ValueError(f"a network's name has 1 to {NAMES_MAX} letters and digits: {name!r}")
        self.name = name
        place = zlib.crc32(name.encode())
        # the block that is meant for tests of networks: 198.18.0.0/15 (RFC 2544)
        self._subnet = f"198.{18 + place % 2}.{place // 2 % 256}"
        self._bridge = f"hp{name}"
        self._nodes: dict[str, int] = {}
        self._cuts: dict[str, Direction] = {}
        try:
            with IPRoute() as ipr:
                ipr.link("add", ifname=self._bridge, kind="bridge")
                bridge = _index(ipr, self._bridge)
                ipr.addr("add", index=bridge, address=self.address, prefixlen=24)
                ipr.link("set", index=bridge, state="up")
        except (NetlinkError, PermissionError) as error:
            raise NotPermitted(
                f"this machine does not let us make a network of our own: {error}; "
                "run as root, in a container with CAP_NET_ADMIN and CAP_SYS_ADMIN"
            ) from error

    @property
    def address(self) -> str:
        """The address of this machine on the bridge: where clients of the nodes are."""
        return f"{self._subnet}.254"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def address_of(self, node: str) -> str:
        return self.address if node == HERE else f"{self._subnet}.{self._nodes[node]}"

    def namespace(self, node: str) -> str:
        """The path by which `nsenter --net=` finds the node's namespace."""
        return f"/run/netns/{self._named(node)}"

    def add(self, node: str) -> str:
        """Make a node's namespace and its cable; its address."""
        number = max(self._nodes.values(), default=0) + 1
        named, cable = self._named(node), self._cable(number)
        netns.create(named)
        self._nodes[node] = number
        with IPRoute() as ipr:
            peer = {"ifname": "eth0", "net_ns_fd": named}
            ipr.link("add", ifname=cable, kind="veth", peer=peer)
            bridge = _index(ipr, self._bridge)
            ipr.link("set", index=_index(ipr, cable), master=bridge, state="up")
        with self._inside(node) as inside:
            eth0 = _index(inside, "eth0")
            inside.addr("add", index=eth0, address=self.address_of(node), prefixlen=24)
            inside.link("set", index=eth0, state="up")
            inside.link("set", index=_index(inside, "lo"), state="up")
        return self.address_of(node)

    def cut(self, node: str, direction: Direction = "both") -> None:
        """Cut a node off from all others and from clients; what it has open stays open to it.

        "out": what it sends does not arrive. "in": what is sent to it does not.
        """
        self.mend(node)
        self._cuts[node] = direction
        if direction == "both":
            self._pull(node, "down")
            return
        for other in self._others(node):
            self._drop(node, other, direction, drop=True)

    def mend(self, node: str) -> None:
        """Undo `cut`; no error if nothing is cut."""
        direction = self._cuts.pop(node, None)
        if direction == "both":
            self._pull(node, "up")
        elif direction is not None:
            for other in self._others(node):
                self._drop(node, other, direction, drop=False)

    def remove(self) -> None:
        """Take it all down. Processes that still live in a namespace keep it until they end."""
        for node in self._nodes:
            with contextlib.suppress(OSError):
                netns.remove(self._named(node))
        with IPRoute() as ipr:
            names = [self._bridge, *(self._cable(number) for number in self._nodes.values())]
            for name in names:
                for index in ipr.link_lookup(ifname=name):
                    with contextlib.suppress(NetlinkError):
                        ipr.link("del", index=index)
        self._nodes.clear()

    def _others(self, node: str) -> list[str]:
        return [HERE, *(other for other in self._nodes if other != node)]

    def _named(self, node: str) -> str:
        return f"{self._bridge}-{node}"

    def _cable(self, number: int) -> str:
        return f"{self._bridge}v{number}"

    def _pull(self, node: str, state: str) -> None:
        with IPRoute() as ipr:
            ipr.link("set", index=_index(ipr, self._cable(self._nodes[node])), state=state)

    def _drop(self, node: str, other: str, direction: Direction, *, drop: bool) -> None:
        """Have what is sent go to nobody, silently: a refusal would be a different fault.

        The sender is told a wrong hardware address of the receiver.
        """
        sender, receiver = (node, other) if direction == "out" else (other, node)
        with self._inside(sender) as inside:
            device = _index(inside, "eth0" if sender != HERE else self._bridge)
            told = {"ifindex": device, "dst": self.address_of(receiver)}
            if drop:
                inside.neigh("replace", lladdr=NOBODY, state=NUD_PERMANENT, **told)
            else:
                with contextlib.suppress(NetlinkError):
                    inside.neigh("del", **told)

    @contextlib.contextmanager
    def _inside(self, node: str) -> Iterator[Any]:
        with IPRoute() if node == HERE else NetNS(self._named(node)) as inside:
            yield inside


def _index(ipr: Any, name: str) -> int:
    return int(ipr.link_lookup(ifname=name)[0])
