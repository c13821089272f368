"""How a command ends that did not do what it was asked: what it says, on stderr, and its exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from io import StringIO
from typing import NoReturn

import click

from flows.cli.options import to_be_pasted
from flows.cli.output.exit_codes import INTERRUPTED, TERMINATED, TRY_AGAIN, USAGE, exit_code_of
from flows.cli.output.json_output import Failure, wants_json
from flows.display.wrapping import say
from sana.errors import SanaError

_RESUMES = "what was finished is kept, and the same command resumes from there"
_BEGINS_AGAIN = "no run is changed by that; the same command begins again"
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
    "compare": "what was evaluated to its end is kept, and the same command evaluates the others",
    "promote": "the alias has moved or not; the same command decides again",
    "export": "objects that were copied whole are kept, and the same command copies the others",
    "import": "objects that were copied whole are kept, and the same command copies the others",
    "verify": "only with --invalidate are records taken back; the same command verifies again from the start",
    "gc": "what was deleted is gone, all that is in use is there, and the same command goes on",
    "extract": "--to was not written; the same command begins again",
    "merge": "--to was not written; the same command begins again",
    "make-tiny-model": "the folder may hold a part of it; remove it, then run the same command",
    "runs": "nothing was written; the same command lists again",
    "watch": "a run goes on whether it is watched or not",
    "ui": "pages are only shown; runs go on",
    "notify": "messages that were sent are sent; the same command sends all of them again",
}


class TerminatedError(BaseException):
    """A signal came that asks for an end in order: SIGTERM, or SIGUSR1 where a command hears it. Its number is all."""


def on_signal(number: int, _: object) -> None:
    """Be the handler of such a signal."""
    raise TerminatedError(number)


def end_with(error: SanaError, arguments: Sequence[str]) -> NoReturn:
    """Say an error, and exit with 1, or with 75 for what may pass by itself."""
    message, code = to_be_pasted(str(error)), exit_code_of(error)
    if wants_json(arguments):
        _print(Failure(message, "try again" if code == TRY_AGAIN else "wrong", code))
    else:
        say(f"error: {message}", err=True)
    sys.exit(code)


def end_with_usage(error: click.ClickException, arguments: Sequence[str]) -> NoReturn:
    """Say what is wrong with a command line."""
    if wants_json(arguments):
        _print(Failure(error.format_message(), "usage", USAGE))
    else:
        told = StringIO()
        error.show(told)
        say(told.getvalue().rstrip("\n"), err=True)
    sys.exit(USAGE)


def end_with_interrupt(arguments: Sequence[str]) -> NoReturn:
    """Say what a command that Ctrl-C stopped leaves, and how to go on."""
    _say_stopped("stopped", "stopped by Ctrl-C", INTERRUPTED, arguments)
    sys.exit(INTERRUPTED)


def end_with_signal(error: TerminatedError, arguments: Sequence[str]) -> NoReturn:
    """Say the same, and exit with 75 after SIGUSR1; after SIGTERM end by that signal, which a shell shows as 143."""
    again = error.args == (signal.SIGUSR1,)
    code, how = (TRY_AGAIN, "stopped by SIGUSR1") if again else (TERMINATED, "stopped by SIGTERM")
    _say_stopped(how, how, code, arguments)
    if not again:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(code)


def end_with_exit(code: object, arguments: Sequence[str]) -> None:
    """Say, for programs, why a command ended that only logged it: a trainer that a signal stopped."""
    if wants_json(arguments) and code in (INTERRUPTED, TERMINATED, TRY_AGAIN):
        _say_stopped("", "stopped by a signal, and saved", int(str(code)), arguments)


def _say_stopped(how: str, error: str, code: int, arguments: Sequence[str]) -> None:
    kept = what_is_kept(arguments)
    if wants_json(arguments):
        _print(Failure(error, "stopped", code, kept))
    else:
        say(f"{how}; {kept}", err=True)


def what_is_kept(arguments: Sequence[str]) -> str:
    """Return what a command that was stopped leaves, and how to go on."""
    names = [name for name in arguments[:2] if name in KEPT]
    return KEPT[names[0]] if names else _BEGINS_AGAIN


def _print(failure: Failure) -> None:
    click.echo(failure.to_json(indent=None).decode(), err=True, nl=False)
