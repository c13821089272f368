"""How a command ends that did not do what it was asked: what it says, on stderr, and its exit code."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from flows.cli.options import to_be_pasted
from flows.cli.output.exit_codes import INTERRUPTED, TRY_AGAIN, USAGE, exit_code_of
from flows.cli.output.json_output import Failure, wants_json
from sana.errors import SanaError

_RESUMES = "what was finished is kept, and the same command resumes from there"
_WROTE_NOTHING = "nothing was changed; the same command begins again"
# what a command that was stopped leaves; `sana run` itself tells of each stage besides
KEPT = {
    "run": _RESUMES,
    "encode-worker": "the parts that were finished are kept, and the same command encodes the others",
    "train-worker": "what its newest checkpoint has is kept, and the same command resumes from there",
    "check": "videos that were probed are not opened again by the same command; nothing else was written",
    "calibrate": "nothing was kept; the same command measures again from the start",
    "sample": "no video of this step was kept; the same command makes them",
    "generate": "no video was written; the same command makes it",
    "inspect": "a stored sample is read only; the same command looks at it again",
    "export-model": "files that were copied whole are kept, and the same command copies the others",
    "export": "objects that were copied whole are kept, and the same command copies the others",
    "import": "objects that were copied whole are kept, and the same command copies the others",
    "verify": "only with --invalidate are records taken back; the same command verifies again from the start",
    "gc": "what was deleted is gone, all that is in use is there, and the same command goes on",
    "extract": "the folder of --to may hold a part of it; remove it, then run the same command",
    "merge": "the folder of --to may hold a part of it; remove it, then run the same command",
    "make-tiny-model": "the folder may hold a part of it; remove it, then run the same command",
    "watch": "a run goes on whether it is watched or not",
    "ui": "pages are only shown; runs go on",
    "notify": "messages that were sent are sent; the same command sends all of them again",
}


def end_with(error: SanaError, arguments: Sequence[str]) -> NoReturn:
    """Say an error, and exit with 1, or with 75 for what may pass by itself."""
    message, code = to_be_pasted(str(error)), exit_code_of(error)
    if wants_json(arguments):
        _print(Failure(message, "try again" if code == TRY_AGAIN else "wrong", code))
    else:
        click.echo(f"error: {message}", err=True)
    sys.exit(code)


def end_with_usage(error: click.ClickException, arguments: Sequence[str]) -> NoReturn:
    """Say what is wrong with a command line."""
    if wants_json(arguments):
        _print(Failure(error.format_message(), "usage", USAGE))
    else:
        error.show()
    sys.exit(USAGE)


def end_with_interrupt(arguments: Sequence[str]) -> NoReturn:
    """Say what a command that Ctrl-C stopped leaves, and how to go on."""
    kept = what_is_kept(arguments)
    if wants_json(arguments):
        _print(Failure("stopped by Ctrl-C", "stopped", INTERRUPTED, kept))
    else:
        click.echo(f"stopped; {kept}", err=True)
    sys.exit(INTERRUPTED)


def what_is_kept(arguments: Sequence[str]) -> str:
    """Return what a command that was stopped leaves, and how to go on."""
    names = [name for name in arguments[:2] if name in KEPT]
    return KEPT[names[0]] if names else _WROTE_NOTHING


def _print(failure: Failure) -> None:
    click.echo(failure.to_json(indent=None).decode(), err=True, nl=False)
