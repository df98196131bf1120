"""Predictions over tabular data that stay up and stay right. Start reading at `spec`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hapredict.client import Client as Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    # imported on first use, so that `import hapredict` costs nothing in a replica
    if name == "Client":
        from hapredict.client import Client

        return Client
    raise AttributeError(f"module 'hapredict' has no attribute {name!r}")
