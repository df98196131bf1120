"""Control for people to look at: progress of a training, the catalog's history, versions."""

from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hapredict.control.runs import Record
from hapredict.registry.catalog import CatalogState, Entry


class Displayed:
    """What a `with` starts and stops: a bar or a table of rich, or nothing."""

    display: Progress | Live | None = None

    def __enter__(self) -> Self:
        if self.display is not None:
            self.display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.display is not None:
            self.display.stop()
            self.stopped()

    def stopped(self) -> None:
        """Say what is to stay when the display is gone."""


class Shown(Displayed):
    """A progress bar of one `apply`: `tell` it what goes on. Use it in a `with`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.display = self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),  # brackets in a sentence are text
            BarColumn(bar_width=30),
            TextColumn("{task.fields[loss]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, loss="")
        self._said = ""

    def tell(self, sentence: str, record: Record | None) -> None:
        """Show a sentence, and how far the run is; each new sentence also stays as a line."""
        said = []
        if record is not None and record.validation_loss is not None:
            said.append(f"validation loss {record.validation_loss:.4f}")
        if record is not None and record.restarts:
            said.append(f"{record.restarts} restarts")
        self._bar.update(
            self._task,
            description=sentence,
            total=(record.epochs or None) if record else None,
            completed=record.epoch if record else 0,
            loss=", ".join(said),
        )
        if sentence != self._said:
            self._console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)
            self._said = sentence


def moment(seconds: float) -> str:
    """A time as people read it, UTC; "-" for none."""
    if not seconds:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def history_text(entries: Iterable[Entry]) -> str:
    """The catalog's entries as a table: event time, what happened, who serves, why."""
    rows = [
        (
            str(entry.sequence),
            moment(entry.event_s),
            entry.action,
            _serving(entry.state),
            _why(entry),
        )
        for entry in entries
    ]
    return table(("#", "event time", "action", "serving", "reason"), rows) if rows else "no entries"


def _why(entry: Entry) -> str:
    """The reason, and who gave it where that was not control itself."""
    by_hand = entry.actor and not entry.actor.startswith("controller")
    return f"{entry.reason} ({entry.actor})" if by_hand else entry.reason


def _serving(state: CatalogState) -> str:
    if state.champion is None:
        return "nothing"
    if state.challenger is None:
        watched = f", v{state.previous} beside" if state.stage == "watch" else ""
        return f"v{state.champion}{watched}"
    share = f" {state.share:.0%}" if state.share else ""
    return f"v{state.champion}, v{state.challenger} in {state.stage}{share}"


def change_text(before: CatalogState, after: CatalogState) -> str:
    """What an entry by hand changes, field by field."""
    changes = [
        (name.replace("_", " "), getattr(before, name), getattr(after, name))
        for name in ("champion", "challenger", "stage", "share", "paused", "frozen", "incident")
    ]
    changes.append(("failed trainings", before.failed_trainings, after.failed_trainings))
    return ", ".join(
        f"{name} {_value(name, old)} -> {_value(name, new)}"
        for name, old, new in changes
        if old != new
    )


def _value(name: str, value: Any) -> str:
    if value in ("", None):
        return "none"
    return f"v{value}" if name in ("champion", "challenger") else str(value)


def versions_text(state: CatalogState) -> str:
    """The published versions: role, age of data, metrics on the hold-out."""
    roles: dict[int | None, str] = {
        state.previous: "previous",
        state.challenger: "challenger",
        state.champion: "champion",
    }
    rows = [
        (
            f"v{version.number}",
            roles.get(version.number, ""),
            moment(version.trained_until_s),
            ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items()),
        )
        for version in state.versions.values()
    ]
    return table(("version", "role", "trained until", "hold-out"), rows)


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of text below a header, columns aligned; the last column is as long as it is.

    Each row is one line, whatever its last cell holds.
    """
    lines = [header, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header) - 1)]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        return "  ".join([*cells, " ".join(line[-1].split())]).rstrip()

    return "\n".join(map(aligned, lines))


def lines(value: dict[str, Any], indent: str = "") -> str:
    """A JSON object as indented lines."""
    shown: list[str] = []
    for name, item in value.items():
        if isinstance(item, dict) and item:
            shown += [f"{indent}{name}:", lines(item, indent + "  ")]
        elif isinstance(item, list) and item:
            shown += [f"{indent}{name}:", *(f"{indent}  {_flat(entry)}" for entry in item)]
        else:
            shown.append(f"{indent}{name}: {_flat(item)}")
    return "\n".join(shown)


def _flat(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(item)}" for name, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
