"""The one family of errors that a user is meant to read: one clear message, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class SanaError(Exception):
    """What was got, what was needed and what to do, in a few lines."""


class ConfigError(SanaError):
    """The config, or what it asks for, is wrong: trying again will not help."""


class RefusedError(SanaError):
    """More clips were refused than the data set allows, or none is left: trying again will not help."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Begin the message of a SanaError with `what: `, once, however often it passes here; its type stays."""
    try:
        yield
    except SanaError as error:
        if not str(error).startswith(f"{what}: "):
            error.args = (f"{what}: {error}",)
        raise
