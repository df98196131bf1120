"""Predictions over tabular data that stay up and stay right. Start reading at `spec`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hapredict.client import AsyncClient as AsyncClient
    from hapredict.client import Client as Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    # imported on first use, so that `import hapredict` costs nothing in a replica
    if name in __all__:
        from hapredict import client

        return getattr(client, name)
    raise AttributeError(f"module 'hapredict' has no attribute {name!r}")
