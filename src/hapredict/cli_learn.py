"""Commands that learn before anything is served: `tune`."""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from hapredict.cli_base import json_option, read_spec, read_text, show, spec_argument
from hapredict.spec import parse_spec


@click.command()
@spec_argument
@click.option("--trials", type=click.IntRange(1), default=None, help="instead of tuning.trials")
@click.option("--write", is_flag=True, help="write better settings into the spec, around comments")
@click.option("--apply", is_flag=True, help="write them, and apply the spec: all data, all gates")
@click.option("--timeout", "timeout_s", default=86_400.0, show_default=True, help="seconds to wait")
@json_option
@click.pass_obj
def tune(
    home: Path,
    spec: str,
    trials: int | None,
    write: bool,
    apply: bool,
    timeout_s: float,
    output: str,
) -> None:
    """Search for better settings of `training`; prove them on the hold-out.

    What is better goes to a file beside the spec, SPEC.tuned.yaml, that holds the changed keys.
    Ends with 0 whether there is any or the spec's own settings stand; the output says which.
    Ctrl-C stops the search, and the same command takes it up again.
    """
    text = read_text(spec)
    parsed = parse_spec(text, where=spec)
    if trials is not None:
        tuning = parsed.tuning.model_copy(update={"trials": trials})
        parsed = parsed.model_copy(update={"tuning": tuning})
    if apply:
        import_module("hapredict.control.ray_apply")  # before `connect`, which makes its log quiet
    from hapredict.control.patching import patched, write_beside, write_over
    from hapredict.control.ray_embedded import connect
    from hapredict.control.ray_tuning import tune as search
    from hapredict.control.show_tuning import TuningShown, summary_of, summary_text

    connect(home)
    with TuningShown() as shown:
        try:
            done = search(parsed, home, shown.show, wait_s=timeout_s)
        except KeyboardInterrupt:
            click.secho("stopped; the same command goes on", err=True)
            raise click.exceptions.Exit(130) from None
    summary: dict[str, Any] = summary_of(done)
    summary["file"] = str(write_beside(Path(spec), summary["patch"], done.detail))
    written = bool(write or apply) and summary["recommended"]
    if written:
        write_over(Path(spec), patched(text, summary["patch"], where=spec))
    summary["written"] = written
    show(output, summary, lambda: summary_text(summary))
    if apply and written:
        _apply(spec, home, timeout_s)


def _apply(path: str, home: Path, timeout_s: float) -> None:
    from hapredict.control.ray_apply import apply as apply_spec
    from hapredict.control.ray_embedded import disconnect
    from hapredict.control.show import Shown

    with Shown() as shown:
        done = apply_spec(read_spec(path), home, shown.tell, wait_s=timeout_s)
    disconnect()
    click.echo(f"applied: v{done.entry.state.champion} is champion at {done.url}", err=True)
