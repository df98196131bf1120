"""The command that lives a table's past again: `replay`."""

from pathlib import Path

import click

from hapredict.cli_base import json_option, read_spec, show, spec_argument
from hapredict.replay.names import DEFAULT


@click.command()
@spec_argument
@click.argument("data", nargs=-1, type=click.Path(exists=True))
@click.option("--policies", default=",".join(DEFAULT), show_default=True, help="names, by commas")
@click.option("--start", default="0.1667", show_default=True, help="date, or share of the time")
@click.option(
    "--step-days",
    type=click.FloatRange(0, min_open=True),
    default=1,
    show_default=True,
    help="between two looks of control",
)
@click.option("--label-delay", type=click.FloatRange(0), default=1, show_default=True, help="days")
@click.option(
    "--resume-days", type=click.FloatRange(0), default=7, show_default=True, help="to end a freeze"
)
@click.option("--sample", type=click.FloatRange(0, 1, min_open=True), default=1, help="of the rows")
@click.option("--seed", default=0, show_default=True, help="of the sample and the intervals")
@click.option("--figure", type=click.Path(dir_okay=False), help="HTML [replay/NAME.html in home]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="of trees")
@json_option
@click.pass_obj
def replay(
    home: Path,
    spec: str,
    data: tuple[str, ...],
    policies: str,
    start: str,
    step_days: float,
    label_delay: float,
    resume_days: float,
    sample: float,
    seed: int,
    figure: str | None,
    threads: int,
    output: str,
) -> None:
    """Live a table's past again by several policies, and compare what came of them.

    The files of DATA, or those of the spec, are asked day by day; labels come late; the spec's own
    monitor and control decide. No cluster is needed. Policies: never, 30d (every 30 days),
    30d-safe, 30d-better, drift, loss, ours (the spec's settings). Models are kept in the home's
    folder `replay`, so that the next replay with other settings of `control` trains little anew.
    """
    parsed = read_spec(spec)
    if data:
        sources = tuple(str(Path(name).absolute()) for name in data)
        told = parsed.data.model_copy(update={"sources": sources})
        parsed = parsed.model_copy(update={"data": told})
    from hapredict.replay.past import Past
    from hapredict.replay.ray_replay import named, read_columns
    from hapredict.replay.ray_replay import replay as live
    from hapredict.replay.show import ReplayShown, outcome_text, write_figure

    wanted = [name.strip() for name in policies.split(",") if name.strip()]
    named(wanted, parsed)  # before anything is read
    past = Past.of(read_columns(parsed.data, home), parsed.data, share=sample, seed=seed)
    times = past.times(start, step_days=step_days, delay_days=label_delay, resume_days=resume_days)
    folder = home / "replay"
    with ReplayShown() as shown:
        outcome = live(
            parsed,
            past,
            times,
            wanted,
            kept=folder / "models",
            shown=shown,
            seed=seed,
            threads=threads,
        )
    path = Path(figure) if figure else folder / f"{parsed.name}.html"
    write_figure(outcome, path)
    told_of = {**outcome.to_json(), "file": str(path)}
    show(output, told_of, lambda: f"{outcome_text(outcome)}\nfigure: {path}")
