"""`sana watch`: a run in the terminal, from its root alone: while it goes on, after it, and from another machine."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.options import FiniteRange, load_options, open_root, resolve
from flows.cli.output.completion import CONFIG_SUFFIXES, complete_run
from flows.cli.output.json_output import emit, is_json, json_option
from flows.display.wrapping import say
from sana.errors import ConfigError
from sana.store import Store

INTERVAL_S, REMOTE_INTERVAL_S = 2.0, 10.0
ONCE_LINES = 200  # rows of a frame that is printed: all of it


@click.command()
@click.argument("target", metavar="[CONFIG | RUN]", required=False, shell_complete=complete_run)
@load_options
@click.option("--once", is_flag=True, help="Print it as it is now, and end.")
@click.option(
    "--follow", is_flag=True, help="With --json: a document a line, whenever it was read, until the run ends."
)
@click.option("--interval", type=FiniteRange(min=0.2), metavar="SECONDS", help="Between two readings; unset: 2, S3 10.")
@json_option("flows.watch.frame:WatchDocument")
def watch(
    target: str | None,
    overrides: Sequence[str],
    root: str | None,
    once: bool,
    follow: bool,
    interval: float | None,
) -> None:
    """Watch a run: stages, rates, ETA, losses as curves, last events and samples. Ctrl-C ends the watching alone.

    CONFIG: its newest run under its root, or the one that comes. RUN: a run, a trajectory or a fingerprint under
    --root, or the beginning of one. Neither: the newest run under --root. Without a terminal it says a line now and
    then, and ends with the run.
    """
    from rich.console import Console

    from flows.watch.loop import Feed, watch_frames, watch_lines, watch_screen
    from flows.watch.reader import RunReader, Wanted
    from flows.watch.screen import draw

    if follow and not is_json():
        raise click.UsageError("--follow is for --json; without it `sana watch` follows as it is")
    store, title, name = _meant(target, overrides, root)
    reader = RunReader(store, Wanted(title, name))
    console = Console()
    feed = Feed(reader, store.root, interval or (INTERVAL_S if store.is_local else REMOTE_INTERVAL_S))
    if name or once or (is_json() and not follow):
        frame = reader.read()
    if once or (is_json() and not follow):
        emit(frame)
        if not is_json():
            for line in draw(frame, console.width, ONCE_LINES, time.time(), ascii_only=console.options.ascii_only):
                console.print(line)
    elif is_json():
        for frame in watch_frames(feed):
            emit(frame, one_line=True)
    elif console.is_terminal and not console.is_dumb_terminal and sys.stdout.isatty():
        watch_screen(feed, console)
    else:
        watch_lines(feed, say)


def _meant(target: str | None, overrides: Sequence[str], root: str | None) -> tuple[Store, str, str]:
    """Return the root, and the title of the config or the name of the run that is meant."""
    if target is not None and target.lower().endswith(CONFIG_SUFFIXES):
        root_of_config = resolve(target, overrides, root).root
        return open_root(root_of_config, named_by="root", is_new=True), Path(target).stem, ""
    if overrides:
        raise ConfigError("-s changes a config, so name one")
    return open_root(root), "", target or ""
