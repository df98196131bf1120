"""Commands that prove: `doctor`, `drill`."""

from pathlib import Path

import click

from hapredict.cli_base import json_option, only_model, show


@click.command()
@click.argument("model", required=False)
@click.option("--level", type=click.IntRange(1, 4), default=None, help="[availability.level]")
@click.option("--fault", "faults", multiple=True, help="only this fault; may be given often")
@click.option("--duration", "duration_s", default=120.0, show_default=True, help="of a fault, in s")
@click.option("--yes", is_flag=True, help="also where others may be served, and without a budget")
@click.option("--list", "list_them", is_flag=True, help="name the faults, break nothing")
@click.option("--html", "page", type=click.Path(dir_okay=False), help="write a page with figures")
@json_option
@click.pass_obj
def drill(
    home: Path,
    model: str | None,
    level: int | None,
    faults: tuple[str, ...],
    duration_s: float,
    yes: bool,
    list_them: bool,
    page: str | None,
    output: str,
) -> None:
    """Break the parts of a live model one after another, and print what callers saw.

    Answers are compared with those of the published versions, so a wrong one counts as lost. Ends
    with 0 if the level held, 1 if it did not, 3 if there was not enough load to tell. Ctrl-C heals
    what is broken and ends.
    """
    from hapredict.drill.faults import FAULTS, faults_of

    if list_them:
        named = faults_of(level or 4)
        told = {
            name: {"level": FAULTS.find(name)().level, "does": str(FAULTS.find(name).__doc__)}
            for name in named
        }
        show(output, told, lambda: "\n".join(f"{n}  (level {t['level']})" for n, t in told.items()))
        return
    from hapredict.drill.drill_report import page as as_page
    from hapredict.drill.drill_report import text
    from hapredict.drill.ray_live_drill import drill_live

    tell = (lambda said: click.echo(said, err=True)) if output == "text" else lambda _said: None
    done, earlier = drill_live(
        home, only_model(home, model), level, faults, duration_s=duration_s, force=yes, tell=tell
    )
    if page:
        Path(page).write_text(as_page(done, earlier), encoding="utf-8")
    show(output, done.to_json(), lambda: text(done, earlier))
    code = {"held": 0, "not held": 1, "not enough load to tell": 3}[done.verdict]
    raise click.exceptions.Exit(code)


@click.command()
@click.argument("model", required=False)
@click.option("--level", type=click.IntRange(1, 4), default=None, help="[availability.level]")
@json_option
@click.pass_obj
def doctor(home: Path, model: str | None, level: int | None, output: str) -> None:
    """Can this cluster hold the model's availability level? What is missing, and what mends it.

    Ends with 0 if it can, 1 if it cannot.
    """
    from hapredict.control.doctor import as_text
    from hapredict.control.ray_doctor import diagnose_live
    from hapredict.control.ray_embedded import connect, disconnect

    connect(home)
    try:
        found = diagnose_live(home, only_model(home, model), level)
    finally:
        disconnect()
    show(output, found.to_json(), lambda: as_text(found))
    raise click.exceptions.Exit(0 if found.holds else 1)
