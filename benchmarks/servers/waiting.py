"""For servers that live in other processes: the one that started them waits to be told to end."""

import signal


def obey() -> None:
    """Make both ways of being told to end raise SystemExit, so that `finally` runs."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(*_: object) -> None:
    raise SystemExit
