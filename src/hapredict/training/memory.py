"""How many rows a worker may hold, and how many are shuffled among each other."""

from typing import Literal

WINDOW_BYTES_MAX = 512 << 20
"""Of one window, whatever `training.shuffle_rows` asks for. The same on every machine, so that the
order of rows does not depend on how much memory there is."""


def memory_for_rows(limit: int | Literal["auto"], node_bytes: int, workers_on_node: int = 1) -> int:
    """Bytes of rows that a worker may hold, of `training.memory_bytes_max` and the node's memory.

    `auto`: a quarter of the node's memory, divided by the workers on it.
    """
    return node_bytes // 4 // max(1, workers_on_node) if limit == "auto" else limit


def rows_shuffled(shuffle_rows: int, limit: int | Literal["auto"], row_bytes: int) -> int:
    """Rows of a window at most: `training.shuffle_rows`, or fewer where rows are wide.

    Two windows, the one in use and the one read ahead, stay within an explicit
    `training.memory_bytes_max`. Nothing here depends on the machine, since the order of rows does.
    """
    most = WINDOW_BYTES_MAX if limit == "auto" else min(WINDOW_BYTES_MAX, limit // 2)
    return max(1, min(shuffle_rows, most // row_bytes))
