"""The errors that a user is meant to read: one clear message, no traceback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SanaError(Exception):
    """What was got, what was needed and what to do, in a few lines."""


class ConfigError(SanaError):
    """The config, or what it names, is wrong: trying again will not help."""


class RejectedError(SanaError):
    """More clips were rejected than the data set allows, or none is left: trying again will not help."""


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
