"""Tables of named things of one kind: model families, metrics, losses.

Write the thing, register it in the same file, name it in the spec. A name with a colon
(`my_company.models:deep`) is imported, so that users need not touch this package.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from hapredict.errors import UnknownName

T = TypeVar("T")


class Plugins(Generic[T]):
    """A table from names to things of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Enter the decorated thing under `name`. A name can be taken once."""

        def enter(entry: T) -> T:
            if name in self._entries:
                message = f"there are two of {self._kind} {name!r}"
                raise ValueError(message)
            self._entries[name] = entry
            return entry

        return enter

    def find(self, name: str) -> T:
        """The entry called `name`, or what `module:attribute` names. Raises UnknownName."""
        if name in self._entries:
            return self._entries[name]
        module, colon, attribute = name.partition(":")
        if colon:
            found: Any = getattr(import_module(module), attribute)
            return found  # type: ignore[no-any-return]
        raise UnknownName(self._kind, name, tuple(self._entries))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
