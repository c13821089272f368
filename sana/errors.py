"""The one family of errors that a user is meant to read: one clear message, no traceback."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SanaError(Exception):
    """What was got, what was needed and what to do, in a few lines."""


class ConfigError(SanaError):
    """The config, or what it asks for, is wrong: trying again will not help."""


class RejectedError(SanaError):
    """More clips were rejected than the data set allows, or none is left: trying again will not help."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Begin the message of a SanaError with `what: `, once, however often it passes here; its type stays."""
    try:
        yield
    except SanaError as error:
        if not str(error).startswith(f"{what}: "):
            error.args = (f"{what}: {error}",)
        raise


def all_of(problems: Sequence[SanaError]) -> SanaError:
    """Return one error that says them all; a ConfigError if one of them is, as trying again would not help."""
    if len(problems) == 1:
        return problems[0]
    kind = ConfigError if any(isinstance(problem, ConfigError) for problem in problems) else SanaError
    return kind("\n".join([f"{len(problems)} problems", *(f"  {problem}" for problem in problems)]))


def repair_hint(*, deep: bool) -> str:
    """Say how what is damaged or gone under a root is made again, and only that; `deep`: where only a digest tells it.

    `--force STAGE` makes everything again, and in a pool of its own: the next run without it reads the damaged one.
    """
    return f"make it again: sana verify CONFIG{' --deep' * deep} --invalidate, then: sana run CONFIG"
