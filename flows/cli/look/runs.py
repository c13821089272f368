"""`sana runs`: the trainings of a root, sorted and filtered."""

import time
from collections.abc import Sequence
from typing import Literal

import click

from flows.cli.options import load_options, open_root, program, resolve, same_options, warn
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.wording import counted

SORTS = ("newest", "loss", "drop", "step", "size", "name")
KEYS = ("name", "state", "method", "data", "step", "train", "trajectory")


@click.command()
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@load_options
@click.option("--sort", type=click.Choice(SORTS), default="newest", show_default=True, help="Which comes first.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help=f"Of these alone; KEY: {', '.join(KEYS)}."
)
@click.option("--limit", type=click.IntRange(min=0), default=30, show_default=True, help="At most so many; 0: all.")
@click.option("--attempts", is_flag=True, help="Also list the runs that worked on each, and those that came to none.")
@json_option("sana.runs.trainings:TrainingList")
def runs(
    config: str | None,
    overrides: Sequence[str],
    root: str | None,
    sort: Literal["newest", "loss", "drop", "step", "size", "name"],
    filters: Sequence[str],
    limit: int,
    attempts: bool,
) -> None:
    """List the trainings of the root of CONFIG, or of --root: eval loss, drop, data, method, steps, age, size, state.

    A filter on name, train or trajectory takes a beginning, one on data a data set; several must all hold.
    """
    from flows.display.trainings import attempt_lines, trainings_table
    from sana.runs.choosing import chosen
    from sana.runs.trainings import trainings_of

    wanted = _filters(filters)
    if config is not None:  # before its first run it may have no root yet
        store = open_root(resolve(config, overrides, root).root, named_by=f"root of {config}", is_new=root is None)
    else:
        store = open_root(root)
    now = time.time()
    # the newest are enough where nothing else decides which are shown
    first = limit if limit and sort == "newest" and not wanted else None
    found = chosen(trainings_of(store, now=now, limit=first), sort, wanted, limit or None)
    if not found.trainings:
        command = f"{program()} run {'CONFIG' if config is None else same_options(config, overrides, root)}"
        say(
            f"{store.root} has no training that is so"
            if found.total
            else f"{store.root} has no training; make one: {command}"
        )
    else:
        say(trainings_table(found, now=now))
    for line in attempt_lines(found, now=now) if attempts else ():
        say(line)
    if found.untrained and not attempts:
        say(f"{counted(len(found.untrained), 'run')} came to no training; --attempts lists them")
    if found.total > len(found.trainings):
        say(f"{len(found.trainings)} of {found.total} trainings; --limit 0 for all")
    for line in found.trouble:
        warn(f"left out: {line}")
    emit(found)


def _filters(filters: Sequence[str]) -> dict[str, str]:
    """Parse KEY=VALUE. Raises click.BadParameter: it is none, or of no such key."""
    found = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise click.BadParameter(f"{text!r} is no KEY=VALUE with a key of {', '.join(KEYS)}", param_hint="--filter")
        found[key] = value
    return found
