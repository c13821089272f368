"""What several commands share: the config argument, its overrides, and the context made of them."""

import math
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from flows.cli.output.completion import ConfigPath, complete_key
from flows.display.wrapping import say
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.errors import ConfigError
from sana.store import Store, local_root, open_store

if TYPE_CHECKING:
    from sana.pipeline.rehash import Rehashed

_resolved: list[str] = []  # the arguments of the config that the command at work has, once it is loaded
_warned: list[str] = []  # by that command
F = TypeVar("F", bound=Callable[..., object])
DEFAULT_ROOT = ".sana/store"  # of a config that names none


class FiniteRange(click.FloatRange):
    """A number from `min` on: neither nan, which every range of click's has, nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def config_options(command: F) -> F:
    """Add CONFIG, `-s key=value` and `--root`."""
    return click.argument("config", type=ConfigPath())(load_options(command))


def load_options(command: F) -> F:
    """Add `-s key=value` and `--root`."""
    command = click.option(
        "--root",
        help="Where artifacts live, instead of the config's: a folder or s3://bucket/prefix.",
        shell_complete=lambda _ctx, _param, incomplete: [CompletionItem(incomplete, type="dir")],
    )(command)
    return click.option(
        "-s",
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=complete_key,
        help="Change one value; may be repeated. A data set is named by its id: download.datasets.ID.repeats=2.",
    )(command)


def rehash_option(command: F) -> F:
    """Add `--rehash`."""
    return click.option(
        "--rehash", is_flag=True, help="Read all local files again: one may have changed and kept its size and time."
    )(command)


def rehash_files(context: Context, *, model: bool = True) -> "Rehashed":
    """Read all local files of the data sets, and of the model if asked, again, and say so."""
    from sana.pipeline.rehash import rehash

    say("--rehash: reading all local files again", err=True)
    return rehash(context, model=model)


def resolve(config: str, overrides: Sequence[str], root: str | None) -> Config:
    """Load the config with its overrides, `--root` last."""
    _resolved[:] = [same_options(config, overrides, root)]
    return load_config(config, [*overrides, *([f"root={root}"] if root is not None else [])])


def same_options(config: str, overrides: Sequence[str], root: str | None) -> str:
    """Return the arguments that name the same config and places, to be pasted into a shell."""
    return shlex.join(
        [config, *(x for text in overrides for x in ("-s", text)), *(["--root", root] if root is not None else [])]
    )


def forget_options() -> None:
    """Begin a command, whose config is not known yet."""
    _resolved.clear()
    _warned.clear()


def to_be_pasted(message: str) -> str:
    """Return a message with this command's config and options in the commands that it names: `sana run CONFIG`."""
    if not _resolved:
        return message
    return re.sub(r"\bsana (\w[\w-]*) CONFIG\b", lambda found: f"{program()} {found[1]} {_resolved[0]}", message)


def program() -> str:
    """Return how to call this program in the shell that called it: `sana`, or the path that was typed."""
    called = sys.argv[0]
    if Path(called).name != "sana":
        return "sana"  # python -m, or a test
    found = shutil.which("sana")
    return "sana" if found and Path(found).resolve() == Path(called).resolve() else shlex.quote(called)


def context_of(config: Config, *, read_only: bool = False) -> Context:
    """Open the store of a config."""
    try:
        store = open_store(config.root)
    except ValueError as error:
        raise ConfigError(f"root: {error}") from error
    return Context(config, store, Path(config.work_dir).absolute(), read_only=read_only)


def open_root(root: str | None, *, named_by: str = "--root", is_new: bool = False) -> Store:
    """Open a root that no config names, None: that of a config that names none; `is_new`: it may be made.

    Raises:
        ConfigError: it is none, or no such folder is there: a mistyped root must not look like an empty one.
    """
    try:
        store = open_store(root or DEFAULT_ROOT)
    except ValueError as error:
        raise ConfigError(f"{named_by}: {error}") from error
    if is_new or not store.is_local or Path(store.root).is_dir():
        return store
    if root is None:
        raise ConfigError(f"there is no {DEFAULT_ROOT} here; name a config, or a root by --root")
    raise ConfigError(
        f"{named_by}: there is no folder {local_root(root)}; name one that has artifacts, as the root of a config "
        "does, or s3://bucket/prefix"
    )


def warn(line: str) -> None:
    """Say what will not stop a run, and may make it worth less."""
    _warned.append(line)
    say(f"warning: {line}", err=True)


def warned() -> tuple[str, ...]:
    """Return what this command has warned of so far."""
    return tuple(_warned)
