"""The command line: `hapredict`.

Edges are imported inside the commands, so that `hapredict --help` answers at once. Reading
commands take `-o json`; waits take `--timeout`. Exit codes: 0 ok, 1 failed, 2 wrong use, 3 refused
by a gate, 4 timed out.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hapredict.cli_base import (
    json_option,
    only_model,
    read_spec,
    show,
    spec_argument,
    user_name,
)
from hapredict.cli_learn import tune
from hapredict.cli_place import retire
from hapredict.cli_prove import doctor, drill
from hapredict.cli_replay import replay
from hapredict.errors import Conflict, HapredictError, LeaseLost, NotFound
from hapredict.spec import spec_schema


class _Cli(click.Group):
    """Ends with the error's own exit code and a sentence instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HapredictError as error:
            click.secho(str(error), fg="red", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Cli, context_settings={"auto_envvar_prefix": "HAPREDICT"})
@click.option("--home", default=None, help="hapredict's folder [.hapredict, or HAPREDICT_HOME]")
@click.version_option(package_name="hapredict")
@click.pass_context
def cli(ctx: click.Context, home: str | None) -> None:
    """Keep predictions up, and keep them right: one YAML file a model."""
    path = Path(home or os.environ.get("HAPREDICT_HOME") or ".hapredict").absolute()
    ctx.obj = path


def lines(value: dict[str, Any]) -> str:
    """A JSON object as indented lines."""
    from hapredict.control.show import lines as shown

    return shown(value)


_model_argument = click.argument("model", required=False)
_file = click.Path(exists=True, dir_okay=False, allow_dash=True)
_dry_run = click.option("--dry-run", is_flag=True, help="say what would change, and change nothing")


@cli.command()
@click.option(
    "--cpus", default=8, show_default=True, help="logical CPUs: what fits beside each other"
)
@click.option("--port", type=int, default=None, help="HTTP port [8000, or a free one]")
@click.option("--grpc-port", type=int, default=None, help="gRPC port [9000, or a free one]")
@click.pass_obj
def up(home: Path, cpus: int, port: int | None, grpc_port: int | None) -> None:
    """Start a Ray cluster on this machine."""
    from hapredict.control.ray_embedded import find, start

    try:
        cluster = find(home)
        click.echo(f"a cluster runs already (pid {cluster.pid})")
    except NotFound:
        click.echo("starting Ray ...", err=True)
        cluster = start(home, num_cpus=cpus, serve_port=port, grpc_port=grpc_port)
    variables = {**cluster.environment, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url}
    click.echo(f"HTTP       {cluster.serve_url}\ngRPC       {cluster.grpc_address}")
    click.echo(f"dashboard  {cluster.dashboard_url}")
    click.echo("for `ray job submit` in this shell:")
    click.echo("  export " + " ".join(f"{name}={value}" for name, value in variables.items()))


@cli.command()
@click.pass_obj
def down(home: Path) -> None:
    """End the cluster of `hapredict up`; models and journals stay in the store."""
    from hapredict.control.ray_embedded import stop

    click.echo("ended" if stop(home) else "no cluster runs")


@cli.command()
def schema() -> None:
    """Print the spec's JSON Schema, with the meaning of each field."""
    click.echo(json.dumps(spec_schema(), indent=1, ensure_ascii=False))


@cli.command()
def families() -> None:
    """List the model families that `training.family` can name."""
    from hapredict.training.families import FAMILIES

    for name in FAMILIES:
        click.echo(f"{name:12} {FAMILIES.find(name).about}")


@cli.command()
@spec_argument
@click.option("--data/--no-data", default=True, help="read the data too, on the cluster")
@json_option
@click.pass_obj
def check(home: Path, spec: str, data: bool, output: str) -> None:
    """Check a spec and its data; say what would be trained."""
    parsed = read_spec(spec)
    if not data:
        show(output, {"name": parsed.name, "ok": True}, lambda: f"{spec} describes a model")
        return
    from hapredict.control.ray_embedded import connect
    from hapredict.control.ray_status import check_data

    connect(home)
    found = check_data(parsed, home)
    show(output, found, lambda: lines(found))


@cli.command()
@spec_argument
@click.option("--timeout", "timeout_s", default=900.0, show_default=True, help="seconds to wait")
@json_option
@click.pass_obj
def apply(home: Path, spec: str, timeout_s: float, output: str) -> None:
    """Train if needed, deploy, watch and lead what a spec describes."""
    parsed = read_spec(spec)
    from hapredict.control.ray_apply import apply as apply_spec
    from hapredict.control.ray_embedded import connect
    from hapredict.control.show import Shown

    connect(home)
    with Shown() as shown_now:
        done = apply_spec(parsed, home, shown_now.tell, wait_s=timeout_s)
    state = done.entry.state
    shown = {"model": done.model, "url": done.url, "champion": state.champion, "stage": state.stage}
    show(output, shown, lambda: lines({**shown, "predict": f"hapredict predict {done.model} ..."}))


@cli.command()
@_model_argument
@json_option
@click.pass_obj
def status(home: Path, model: str | None, output: str) -> None:
    """Show what serves, what is watched, and what control waits for."""
    from hapredict.control.ray_embedded import connect
    from hapredict.control.ray_status import status_of
    from hapredict.control.show_monitor import status_text

    connect(home)
    found = status_of(home, only_model(home, model))
    show(output, found, lambda: status_text(found))


@cli.command()
@_model_argument
@json_option
@click.pass_obj
def history(home: Path, model: str | None, output: str) -> None:
    """Show what served when, and why: every entry of the catalog."""
    from hapredict.control.show import history_text
    from hapredict.registry.catalog import Catalog

    model = only_model(home, model)
    entries = Catalog(_store(home, model), model).entries()
    show(output, [entry.to_json() for entry in entries], lambda: history_text(entries))


@cli.command()
@_model_argument
@json_option
@click.pass_obj
def models(home: Path, model: str | None, output: str) -> None:
    """Show the published versions of a model and their metrics on the hold-out."""
    from hapredict.control.show import versions_text
    from hapredict.registry.catalog import Catalog

    model = only_model(home, model)
    entry = Catalog(_store(home, model), model).latest()
    if entry is None:
        raise NotFound(f"model {model!r} has no version yet")
    versions = entry.state.to_json()["versions"]
    show(output, versions, lambda: versions_text(entry.state))


@cli.command()
@_model_argument
@click.option(
    "--rows", type=_file, default="-", help="file with JSON rows, one object or a list [stdin]"
)
@click.option("--version", type=int, default=None, help="ask this version")
@click.option("--url", default=None, help="where the model answers [the local cluster]")
@click.pass_obj
def predict(home: Path, model: str | None, rows: str, version: int | None, url: str | None) -> None:
    """Ask for predictions over HTTP; prints JSON."""
    model = only_model(home, model)
    given = _json_input(rows)
    with _client(home, model, url) as client:
        answered = client.predict(given if isinstance(given, list) else [given], version=version)
    answer = {"predictions": [asdict(one) for one in answered]}
    click.echo(json.dumps(answer, indent=1, ensure_ascii=False))


@cli.command()
@_model_argument
@click.option(
    "--labels", type=_file, default="-", help='JSON: [{"prediction_id", "label"}, ...] [stdin]'
)
@click.option("--url", default=None, help="where the model answers [the local cluster]")
@click.pass_obj
def feedback(home: Path, model: str | None, labels: str, url: str | None) -> None:
    """Send what became known about predictions; durable when it returns."""
    model = only_model(home, model)
    given = _json_input(labels)
    with _client(home, model, url) as client:
        count = client.feedback(given if isinstance(given, list) else [given])
    click.echo(f"{count} labels acknowledged")


def _change(verb: str, help_text: str, *options: Any) -> None:
    """A command that appends a catalog entry by hand. `options`: those besides the common ones."""

    @click.pass_obj
    def command(
        home: Path, model: str | None, reason: str, dry_run: bool, to: int | None = None
    ) -> None:
        model = only_model(home, model)
        for _ in range(20):
            try:
                click.echo(_append(home, model, verb, reason, to, dry_run=dry_run))
                return
            except (Conflict, LeaseLost):
                # the controller, or a new one, was faster: look again, for it may forbid this now
                time.sleep(0.05)
        raise Conflict(f"the catalog of {model!r} changes too fast; try again")

    for option in (*options, _dry_run, _model_argument):
        command = option(command)
    cli.command(name=verb, help=help_text)(command)


def _append(
    home: Path, model: str, verb: str, reason: str, to: int | None, *, dry_run: bool
) -> str:
    from hapredict.control.show import change_text
    from hapredict.registry import catalog

    store = _store(home, model)
    book = catalog.Catalog(store, model)
    entry = book.latest()
    if entry is None:
        raise NotFound(f"model {model!r} has no version yet")
    state, now_s = entry.state, _now(home, model, entry.event_s)
    changed = {
        "rollback": lambda: catalog.roll_back(
            state, now_s, to, freeze=f"rolled back by hand: {reason}"
        ),
        "promote": lambda: catalog.promote(state, now_s),
        "abort": lambda: catalog.abort(state, now_s),
        "pause": lambda: catalog.pause(state, reason),
        "resume": lambda: catalog.resume(state, now_s),
    }[verb]()
    said = change_text(state, changed)
    if dry_run:
        return f"would change: {said}"
    book.append(
        entry,
        changed,
        action=verb.capitalize(),
        reason=reason,
        at_s=time.time(),
        event_s=now_s,
        actor=f"{user_name()} at the command line",
    )
    return said


def _now(home: Path, model: str, last_s: float) -> float:
    """The model's clock; the last entry's where events are the clock and nobody can be asked."""
    from hapredict.control.specs import read_spec

    if read_spec(_store(home, model), model).monitoring.clock == "wall":
        return time.time()
    return last_s


_reason = click.option("--reason", default="by hand", help="kept in the history")
_change(
    "rollback",
    "Make the previous champion, or version --to, champion again.",
    click.option("--to", type=int, default=None, help="version [the previous champion]"),
    _reason,
)
_change("promote", "Make the challenger champion now.", _reason)
_change("abort", "Drop the challenger.", _reason)
_change(
    "pause",
    "Stop deciding until `resume`; serving goes on.",
    click.option("--reason", required=True, help="kept in the history"),
)
_change("resume", "Lift a pause, a freeze, an incident, the count of failed trainings.", _reason)


@cli.command()
@_model_argument
@_reason
@_dry_run
@click.pass_obj
def retrain(home: Path, model: str | None, reason: str, dry_run: bool) -> None:
    """Ask for a training; the challenger still has to earn its place."""
    from hapredict.control.runs import request_retrain

    model = only_model(home, model)
    if dry_run:
        click.echo(f"would ask for a training of {model!r}: {reason}")
        return
    request_retrain(_store(home, model), model, reason)
    click.echo("asked for; see `hapredict status`")


@cli.command()
@_model_argument
@click.option("--reason", default="asked for at the command line", help="kept with the run")
@_dry_run
@click.pass_obj
def cancel(home: Path, model: str | None, reason: str, dry_run: bool) -> None:
    """End the training in progress; the same one asked for again goes on where it stopped."""
    from hapredict.control.ray_retrain import cancel as end
    from hapredict.registry.catalog import Catalog

    model = only_model(home, model)
    store = _store(home, model)
    if dry_run:
        entry = Catalog(store, model).latest()
        run = entry.state.training if entry is not None else ""
        click.echo(f"would end {run}" if run else f"no training of {model!r} is in progress")
        return
    what = end(store, model, reason)
    click.echo(f"cancelled: {what}" if what else f"no training of {model!r} is in progress")


def _store(home: Path, model: str) -> Any:
    """The store of a model that was applied from this home."""
    from hapredict.control.specs import home_store

    return home_store(home, model)


def _client(home: Path, model: str, url: str | None) -> Any:
    from hapredict.client import Client
    from hapredict.control.specs import read_spec as read_model_spec
    from hapredict.control.specs import url_path

    if url is None:
        try:
            where = json.loads((home / "cluster.json").read_text(encoding="utf-8"))["serve_url"]
        except (OSError, ValueError, KeyError):
            raise NotFound(
                f"no cluster runs for {home}; start one with `hapredict up`, or give --url"
            ) from None
        url = f"{where}/{url_path(read_model_spec(_store(home, model), model))}"
    return Client(url, model)


def _json_input(path: str) -> Any:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{path} is not JSON: {error}") from None


cli.add_command(tune)
cli.add_command(doctor)
cli.add_command(drill)
cli.add_command(replay)
cli.add_command(retire)


def main() -> None:
    """The `hapredict` command."""
    cli()
