"""What makes a test plain: importing an edge, or waiting, fails it."""

import builtins
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

EDGES = ("ray", "keras", "tensorflow")
"""Libraries that only files named after them import."""


@pytest.fixture(autouse=True)
def only_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing an edge raises, whether or not something imported it before."""
    real_import, real_sleep, test_thread = builtins.__import__, time.sleep, threading.get_ident()

    def plain_import(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the names are Python's
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        # other threads are not the test's: a library may import what it likes in its own
        if not level and name.partition(".")[0] in EDGES and threading.get_ident() == test_thread:
            raise ImportError(f"a plain test imported {name!r}; see tests/support/plain.py")
        return real_import(name, globals, locals, fromlist, level)

    def no_sleep(seconds: float) -> None:
        if threading.get_ident() == test_thread:
            raise AssertionError("a plain test waited; hand it the time as an argument")
        real_sleep(seconds)

    monkeypatch.setattr(builtins, "__import__", plain_import)
    for edge in EDGES:
        monkeypatch.setitem(sys.modules, edge, None)  # stops importlib.import_module too
    monkeypatch.setattr(time, "sleep", no_sleep)
