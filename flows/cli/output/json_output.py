"""The one door of `--json`: a command that has it hands over one closed document, and stdout has nothing else.

What the same command tells people goes to stderr then, and so does its error, which is the last line there.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeVar

import click

from sana.record import Record

FLAG = "--json"
F = TypeVar("F", bound=Callable[..., object])
_kept: list[TextIO] = []  # the stdout of the command at work, where it was given --json


@dataclass(frozen=True)
class Failure(Record):
    """What ended a command that was given --json: one line, the last of stderr."""

    error: str  # the message that is told without --json
    kind: Literal["wrong", "usage", "try again", "stopped"]
    exit_code: int
    kept: str = ""  # of a command that was stopped: what is kept, and how to go on


class JsonOption(click.Option):
    """`--json`; `document` is the class of what is printed, as `module:Class`: nothing is imported before it is due."""

    def __init__(self, *declarations: Any, document: str, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.document = document


def json_option(document: str) -> Callable[[F], F]:
    """Add `--json` to a command that calls `emit` with a document of this class, `module:Class`."""

    def add(command: F) -> F:
        @functools.wraps(command)
        def run(*args: Any, wants_json: bool, **values: Any) -> object:
            if not wants_json:
                return command(*args, **values)
            with _stdout_kept(document):
                return command(*args, **values)

        text = "Print one JSON document, for programs; all else goes to stderr."
        option = click.option(FLAG, "wants_json", cls=JsonOption, document=document, is_flag=True, help=text)
        return option(run)  # type: ignore[return-value]

    return add


def is_json() -> bool:
    """Whether the command at work was given `--json`."""
    return bool(_kept)


def emit(document: Record, *, one_line: bool = False) -> None:
    """Print the document of the command at work, if it was given `--json`; `one_line` where others follow it."""
    if _kept:
        _kept[-1].write(document.to_json(indent=None if one_line else 1).decode())
        _kept[-1].flush()


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that cannot be parsed."""
    before_names = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return FLAG in before_names


@contextmanager
def _stdout_kept(document: str) -> Iterator[None]:
    """Keep stdout for `emit`; whatever else writes there, libraries too, writes to stderr."""
    _kept.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()
