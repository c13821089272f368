"""`sana check`: what would become of every file, before a run: by reason and name, with the change that would help."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import context_of, load_options, resolve, same_options, warn
from sana.config.pipeline import Config
from sana.errors import SanaError
from sana.store import Store

if TYPE_CHECKING:
    from sana.pipeline.check import Checked

YAML_SUFFIXES = (".yaml", ".yml")


@click.command()
@click.argument("place", metavar="SOURCE|CONFIG")
@load_options
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Write a config for SOURCE to this file.")
def check(place: str, overrides: Sequence[str], root: str | None, write: Path | None) -> None:
    """Say what a run would make of the data: rejects by name, captions, buckets, split, and what would stop it.

    SOURCE is a folder, a table, s3://bucket/prefix or hf://datasets/owner/name; CONFIG a .yaml file. Opens each video
    once, in a process of its own, and writes nothing under root. Exit code 1 if a run would stop.
    """
    from flows.cli.check_text import lines_of
    from flows.cli.show import RunDisplay
    from sana.pipeline.check import check_data

    is_config = place.lower().endswith(YAML_SUFFIXES)
    if write and (is_config or write.exists()):
        raise SanaError(f"--write makes a config for a SOURCE: {write} " + ("exists" if write.exists() else "is not"))
    starter = None
    if is_config:
        config = resolve(place, overrides, root)
    else:
        from sana.pipeline.starter import Starter

        starter = Starter(place, [*overrides, *([f"root={root}"] if root else [])])
        config = starter.config
    problems, known = _root(config)
    context = context_of(config.model_copy(update={"root": config.work_dir}))
    with RunDisplay() as display:
        checked = check_data(context, display.reporter, known=known)
    if starter is not None:
        checked = starter.improve(checked)
    if is_config:
        problems += _model(config, context.work_dir)
    for line in lines_of(checked):
        click.echo(line)
    for line in _advice(checked):
        warn(line)
    stopped = [*problems, *checked.stopped]
    if starter is not None:
        _show_starter(starter.text(checked), write)
        place = str(write or "my.yaml")
    command = f"sana run {same_options(place, overrides if is_config else (), root if is_config else None)}"
    if stopped:
        click.echo(f"\n{len(stopped)} {'thing' if len(stopped) == 1 else 'things'} would stop a run:")
        for problem in stopped:
            click.echo(f"  {problem}")
        sys.exit(1)
    click.echo(f"\na run would go through: {command}")


def _root(config: Config) -> tuple[list[str], Store | None]:
    """Open the root, to read what it knows of the videos; what is wrong with it is one of the problems."""
    try:
        store = context_of(config).store
        store.exists("artifact.json")  # any key: is the root there and readable?
        return [], store
    except SanaError as error:
        return [str(error)], None


def _model(config: Config, work_dir: Path) -> list[str]:
    from sana.model.model_resolver import resolve_model

    try:
        resolve_model(config.model, work_dir=work_dir)
    except SanaError as error:
        return [str(error)]
    return []


def _advice(checked: "Checked") -> list[str]:
    from sana.pipeline.advice import advice

    return advice(checked.config, checked.assigned.facts if checked.assigned else None)


def _show_starter(text: str, write: Path | None) -> None:
    """Print a config to begin with, or write it."""
    if write is None:
        click.echo("\na config to begin with (--write my.yaml writes it):\n")
        click.echo(text.rstrip())
    else:
        write.write_text(text, encoding="utf-8")
        click.echo(f"\n{write} is written: look through it")


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def buckets(rest: Sequence[str]) -> None:
    """Say what took the place of `sana buckets`."""
    raise SanaError("`sana buckets` is part of `sana check` now, which needs no run before it: sana check CONFIG")
