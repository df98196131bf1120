"""How a batch prediction looks while it runs: a bar on a terminal, else a line now and then."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from hapredict.control.show import Displayed
from hapredict.serving.batch_plan import Progress

LINE_S = 5.0
"""Seconds between two lines."""


class BatchShown(Displayed):
    """The progress of a batch prediction: `show` it. Use it in a `with`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.display = self._bar = (
            Bar(
                BarColumn(bar_width=30),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                transient=True,
            )
            if self._console.is_terminal
            else None
        )
        self._task = self._bar.add_task("", total=None) if self._bar is not None else None
        self._said: Progress | None = None

    def show(self, progress: Progress) -> None:
        """Show how far it is: at once on a terminal, else at the ends and each LINE_S seconds."""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                description=progress.sentence(),
                total=progress.bytes,
                completed=progress.bytes_done,
            )
            return
        ended = progress.parts_done == progress.parts
        if self._said is None or ended or progress.seconds - self._said.seconds >= LINE_S:
            self._said = progress
            self._console.print(
                f"  {progress.sentence()}", highlight=False, markup=False, soft_wrap=True
            )
