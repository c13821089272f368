"""`sana make-tiny-model`: a small model with random weights, to try everything on a laptop."""

from pathlib import Path

import click

from sana.errors import SanaError


@click.command("make-tiny-model")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
def tiny(out: Path, seed: int) -> None:
    """Write a complete tiny Sana Video checkpoint (random weights, real architecture) to the folder OUT."""
    from sana.model.tiny_model import build_tiny_model

    try:
        build_tiny_model(out, seed=seed)
    except OSError as error:
        raise SanaError(str(error)) from error
    click.echo(f"wrote a tiny random-weight Sana Video to {out}")
