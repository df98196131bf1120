"""What commands share: the spec's file, the form of output."""

import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hapredict.errors import NotFound, Problem, SpecError
from hapredict.spec import Spec, parse_spec

spec_argument = click.argument("spec", type=click.Path(exists=True, dir_okay=False))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-o text|json`, handed over as `output`."""
    return click.option(
        "-o", "output", type=click.Choice(["text", "json"]), default="text", help="form of output"
    )(command)


def show(output: str, value: Any, text: Callable[[], str]) -> None:
    """Print a value as JSON, or what `text` makes of it."""
    if output == "json":
        click.echo(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        click.echo(text())


def read_spec(path: str) -> Spec:
    """The spec in a YAML file. Raises SpecError."""
    return parse_spec(read_text(path), where=path)


def read_text(path: str) -> str:
    """The text of a file. Raises SpecError if it is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError((Problem(path, f"is not UTF-8 text: {error}"),)) from None


def only_model(home: Path, model: str | None) -> str:
    """The model that is meant: the one named, or the only one of this home. Raises NotFound."""
    from hapredict.control.specs import applied_models

    known = applied_models(home)
    if model is None and len(known) == 1:
        return known[0]
    if model is None or model not in known:
        listed = ", ".join(known) or "none; see `hapredict apply`"
        what = "name a model" if model is None else f"there is no model {model!r}"
        raise NotFound(f"{what}; applied from {home}: {listed}")
    return model


def user_name() -> str:
    """Who types, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # in a container users need no names
        return f"user {os.getuid()}"
