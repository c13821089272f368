"""The exit codes of every command, and which error has which."""

from typing import Final

from sana.errors import LeaseHeldError, RankLostError, SanaError
from sana.runtime.launcher import EXIT_TRY_AGAIN, WorkerAgainError
from sana.store_errors import StoreAwayError

DONE: Final = 0
WRONG: Final = 1  # something is wrong: the same command gives the same again until it is mended
USAGE: Final = 2  # no such command, option or value
TRY_AGAIN: Final = EXIT_TRY_AGAIN  # storage, the network or another run was in the way: the same command may go on
INTERRUPTED: Final = 130  # Ctrl-C
TERMINATED: Final = 143  # SIGTERM


class TryAgainError(SanaError):
    """What may pass by itself, as a command says that knows more of it than its type."""


_MAY_PASS = (TryAgainError, StoreAwayError, RankLostError, LeaseHeldError, WorkerAgainError)


def exit_code_of(error: SanaError) -> int:
    """Return TRY_AGAIN for what may pass by itself, else WRONG."""
    return TRY_AGAIN if isinstance(error, _MAY_PASS) else WRONG
