"""`sana make-tiny-model`: a small model with random weights, to try everything on a laptop."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.options import program
from sana.errors import SanaError


@click.command("make-tiny-model")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
def make_tiny_model(out: Path, seed: int) -> None:
    """Write a complete tiny Sana Video checkpoint (random weights, real architecture) to the folder OUT."""
    from sana.model.tiny_model import build_tiny_model

    try:
        build_tiny_model(out, seed=seed)
    except OSError as error:
        raise SanaError(str(error)) from error
    click.echo(f"wrote a tiny random-weight Sana Video to {out}")


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def tiny(rest: Sequence[str]) -> None:
    """Say what `sana tiny` is called now."""
    raise SanaError(f"`sana tiny` is called `sana make-tiny-model` now: {program()} make-tiny-model {shlex.join(rest)}")
