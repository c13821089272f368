"""The errors that a user is meant to read: one clear message, no traceback."""

import errno
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from sana.wording import one_line

FULL = {
    "ENOSPC": "the disk is full",
    "EDQUOT": "the disk quota is used up",
    "EFBIG": "a file may not be that large here",
}
# what libraries say whose errors have no errno: safetensors, sqlite, PyTorch
_FULL_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|file too large|\(os error (28|122|27)\)",
    re.IGNORECASE,
)


def why_ended(error: BaseException, *, most: int = 1000) -> str:
    """Return in one line what ended a run: an error's text, or by what it was asked to stop, which is no error.

    An exception that a signal raises has the signal's number: ours, and Prefect's.
    """
    if isinstance(error, Exception):
        return one_line(error, most=most)
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    numbers = [one for one in (*error.args, *vars(error).values()) if isinstance(one, int)]
    if isinstance(error, SystemExit):  # 128 and the signal, where one was heard
        numbers = [one - 128 for one in numbers]
    number = next((one for one in numbers if one in signal.valid_signals()), None)
    if number == signal.SIGINT:
        return "stopped by Ctrl-C"
    return "stopped" if number is None else f"stopped by {signal.Signals(number).name}"


class SanaError(Exception):
    """What was got, what was needed and what to do, in a few lines."""


class ConfigError(SanaError):
    """The config, or what it names, is wrong: trying again will not help."""


class NoColumnError(ConfigError):
    """A table has none of the columns that are looked for; `setting` names one, of `columns`, which it has."""

    def __init__(self, message: str, setting: str, columns: Sequence[str]) -> None:
        super().__init__(message)
        self.setting, self.columns = setting, columns


class RankLostError(SanaError):
    """Another rank of a training is gone: trying again resumes."""


class LeaseHeldError(SanaError):
    """Another trainer has a trajectory, or is gone and its claim is not old yet: trying again later may help."""


class RejectedError(SanaError):
    """More clips were rejected than the data set allows, or none is left: trying again will not help."""


class DiskFullError(SanaError):
    """A disk or a quota is full: trying again will not help before there is room."""


def disk_full(error: BaseException | None) -> DiskFullError | None:
    """Return the error to tell where a full disk or quota is behind an exception; None where it is not."""
    first, message = error, ""
    while error is not None and not message:
        if isinstance(error, DiskFullError):
            return error
        if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in FULL:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{FULL[errno.errorcode[error.errno or 0]]}"
        elif isinstance(error, Exception) and _FULL_TEXT.search(str(error)):
            message = one_line(error, most=300)
        error = error.__cause__ or error.__context__
    if not message or not isinstance(first, Exception):
        return None
    return DiskFullError(
        str(first)
        if isinstance(first, SanaError)
        else f"{message}. Free some space (`sana gc CONFIG`, work_dir/cache), or set root and work_dir to other disks, "
        "then run again: what was finished is kept"
    )


class FullDiskExplained:
    """A context whose exceptions become a DiskFullError where a full disk or quota is behind them.

    `message` is told instead of the usual one.
    """

    def __init__(self, message: str = "") -> None:
        self._message = message

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        full = disk_full(error)
        if full is not None and (self._message or full is not error):
            raise (DiskFullError(self._message) if self._message else full) from error


@contextmanager
def error_prefix(what: str) -> Iterator[None]:
    """Put `what: ` before the message of a SanaError, once, however often it passes here; its type stays."""
    try:
        yield
    except SanaError as error:
        if not str(error).startswith(f"{what}: "):
            error.args = (f"{what}: {error}",)
        raise


def combine_errors(problems: Sequence[SanaError]) -> SanaError:
    """Return one error with all the messages; a ConfigError if one of them is: trying again would not help."""
    if len(problems) == 1:
        return problems[0]
    kind = ConfigError if any(isinstance(problem, ConfigError) for problem in problems) else SanaError
    return kind("\n".join([f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]))


def repair_hint(*, deep: bool) -> str:
    """Return the command that makes damaged or missing data of a root again, and only that.

    `deep`: where only a digest shows the damage. Not `--force STAGE`, which makes everything again, in a pool of its
    own: the next run without it would read the damaged one.
    """
    return f"make it again: sana verify CONFIG{' --deep' * deep} --invalidate, then: sana run CONFIG"
