"""`sana check`: what would become of every file, before a run: by reason and name, with the change that would help."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import (
    context_of,
    load_options,
    program,
    rehash_files,
    rehash_option,
    resolve,
    same_options,
    warn,
    warned,
)
from flows.cli.output.completion import complete_place
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.config.pipeline import Config
from sana.errors import SanaError
from sana.store import Store

if TYPE_CHECKING:
    from sana.pipeline.check import Checked

YAML_SUFFIXES = (".yaml", ".yml")


@click.command()
@click.argument("place", metavar="SOURCE|CONFIG", shell_complete=complete_place)
@load_options
@click.option(
    "--write", type=click.Path(dir_okay=False, path_type=Path), help="Write a config for SOURCE to this file."
)
@rehash_option
@json_option("flows.cli.output.documents:CheckDocument")
def check(place: str, overrides: Sequence[str], root: str | None, write: Path | None, rehash: bool) -> None:
    """Say what a run would make of the data: rejects by name, captions, buckets, split, and what would stop it.

    SOURCE is a folder, a table, an archive, s3://bucket/prefix or hf://datasets/owner/name; CONFIG a .yaml file. Opens
    each video once, in a process of its own, and writes nothing under root. Exit code 1 if a run would stop.
    """
    from flows.cli.begin.check_text import lines_of
    from flows.cli.output.of_check import check_document

    is_config = place.lower().endswith(YAML_SUFFIXES)
    if write and is_config:
        raise SanaError(f"--write makes a config for a SOURCE, and {place} is one already")
    if write and write.exists():
        raise SanaError(f"--write {write}: there is such a file already; name another, or remove it")
    if not is_config:
        checked, stopped, made = _check_source(
            place, [*overrides, *([f"root={root}"] if root is not None else [])], write, rehash=rehash
        )
        command = f"{program()} run {shlex.quote(str(write or 'my.yaml'))}"
        if write is None:  # what is printed can be pasted: the config is not there yet
            written = same_options(place, overrides, root)
            command = f"{program()} check {written} --write my.yaml && {command}"
    else:
        config = resolve(place, overrides, root)
        problems, checked = _checked(config, rehash=rehash)
        made = None
        for line in lines_of(checked):
            say(line)
        _warn(checked)
        stopped = [*problems, *_model(config), *checked.stopped]
        command = f"{program()} run {same_options(place, overrides, root)}"
    path = str(write) if write and made else None
    emit(check_document(place, checked, stops=stopped, warnings=warned(), next_=command, made=made, written=path))
    if stopped:
        say(f"\n{len(stopped)} {'thing' if len(stopped) == 1 else 'things'} would stop a run:")
        for problem in stopped:
            say(f"  {problem}")
        sys.exit(1)
    say(f"\na run would go through: {command}", command=command)


def _check_source(
    source: str, overrides: Sequence[str], write: Path | None, *, rehash: bool
) -> "tuple[Checked, list[str], str | None]":
    """Check a source by the defaults, and make a config of what is found.

    Returns what was found, what would stop a run of that config, and its text; without a text by the defaults.
    """
    from flows.cli.begin.check_text import lines_of, lines_of_buckets, summary
    from sana.config.json_schema import schema_line
    from sana.pipeline.starting.starter import Starter

    starter = Starter(source, overrides)
    problems, checked = _checked(starter.config, rehash=rehash)
    for line in lines_of(checked):
        say(line)
    if checked.stopped and checked.assigned is not None:  # else what stops it is all there is to say
        say(f"with the defaults of a config {summary(checked)}")
    improved = starter.improve(checked)
    if improved.assigned is None or not improved.assigned.windows.num_rows:
        return checked, [*problems, *improved.stopped], None  # no config would help
    text = f"{schema_line(write or 'my.yaml')}\n{starter.text(improved)}"
    if write is None:
        click.echo(f"\na config to begin with (--write my.yaml writes it):\n\n{text.rstrip()}")
    else:
        write.write_text(text, encoding="utf-8")
    say(f"\nwith {write or 'this config'} {summary(improved)}")
    for line in lines_of_buckets(improved):
        say(line)
    _warn(improved)
    return improved, [*problems, *improved.stopped], text


def _checked(config: Config, *, rehash: bool) -> "tuple[list[str], Checked]":
    """Return what is wrong with the root, and what the check of the data found."""
    from flows.display.progress_display import RunDisplay
    from sana.pipeline.check import check_data

    problems: list[str] = []
    known: Store | None = None
    try:
        known = context_of(config).store
        known.exists("artifact.json")  # any key: can it be read?
    except SanaError as error:
        problems, known = [str(error)], None
    # nothing is written to the store, so any that exists does; the config keeps its root, which no source may hold
    context = replace(context_of(config.model_copy(update={"root": config.work_dir})), config=config)
    if rehash:
        rehash_files(context, model=False)
    with RunDisplay() as display:
        return problems, check_data(context, display.reporter, known=known)


def _model(config: Config) -> list[str]:
    """Return what is wrong with the model."""
    from sana.model.model_resolver import resolve_model
    from sana.stages.bodies.trainable_here import check_named_parameters

    work_dir = Path(config.work_dir).absolute()
    try:
        resolve_model(config.model, work_dir=work_dir)
        check_named_parameters(config, work_dir=work_dir)
    except SanaError as error:
        return [str(error)]
    return []


def _warn(checked: "Checked") -> None:
    from sana.pipeline.advice import advice

    for one in advice(checked.config, checked.assigned.facts if checked.assigned else None):
        warn(str(one))


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def buckets(rest: Sequence[str]) -> None:
    """Say what took the place of `sana buckets`."""
    raise SanaError("`sana buckets` is part of `sana check` now, which needs no run before it: sana check CONFIG")
