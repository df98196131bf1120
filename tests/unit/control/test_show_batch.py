"""How a batch prediction looks: lines now and then, or a bar that stays in its place."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from hapredict.control.show_batch import LINE_S, BatchShown
from hapredict.serving.batch_plan import Progress

BEGAN = Progress(
    parts=4, parts_done=0, rows=0, rows_now=0, bytes=40, bytes_done=0, bytes_now=0, seconds=1.0
)


def after(parts, seconds):
    rows, size = 100 * parts, 10 * parts
    done = {"rows": rows, "rows_now": rows, "bytes_done": size, "bytes_now": size}
    return replace(BEGAN, parts_done=parts, seconds=seconds, **done)


def shown(console):
    steps = [BEGAN, after(1, 2.0), after(2, 1.0 + LINE_S), after(3, 2.0 + LINE_S), after(4, 10.0)]
    with BatchShown(console) as shown:
        for step in steps:
            shown.show(step)
    return console.file.getvalue()


def test_lines_come_at_the_beginning_at_the_end_and_now_and_then():
    lines = shown(Console(file=StringIO(), width=200)).splitlines()
    assert lines == [
        "  0 of 4 parts, 0 rows",
        "  2 of 4 parts, 200 rows, 33 rows/s, 6 s left",
        "  4 of 4 parts, 400 rows, 40 rows/s, 0 s left",
    ]


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end():
    told = shown(Console(file=StringIO(), force_terminal=True, width=200))
    assert "4 of 4 parts, 400 rows" in told
    assert told.endswith("\x1b[2K")
