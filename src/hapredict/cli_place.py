"""Commands about where models live: `retire`."""

from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.pass_obj
def retire(home: Path, model: str) -> None:
    """End what still answers where MODEL was before it moved into a pool, or out of one."""
    from hapredict.control.ray_embedded import connect
    from hapredict.control.ray_placing import retire as end
    from hapredict.control.specs import home_store

    store = home_store(home, model)
    connect(home)
    places = end(store, model, home)
    click.echo(f"ended: {', '.join(places)}" if places else f"{model} answers in one place only")
