"""Errors in the words of a deployment's form: messages name options of `sana run`, which it does not have."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sana.errors import SanaError, why_ended
from sana.wording import without_password

_OPTION = r"--(?:until|force) [a-z_]+"
_OVERRIDE = r"-s ([a-z][\w.-]*=\S+?)(?=[\s,;:)]|\.?$|\. )"

_MOST_CHARS = 4000  # of an error: a form takes values of any length

_form_config: ContextVar[str | None] = ContextVar("_form_config", default=None)  # what the form at work named


@contextmanager
def in_form_terms(config: str, *, wanted: bool = True) -> Iterator[None]:
    """Let each SanaError that passes here or in `as_the_form_says` say what to do as the form has it, if `wanted`.

    `config`: what the form named.
    """
    token = _form_config.set(config if wanted else None)
    try:
        with as_the_form_says():
            yield
    finally:
        _form_config.reset(token)


@contextmanager
def as_the_form_says() -> Iterator[None]:
    """Word a SanaError that passes, before a task that it ends shows it; nothing but in a run with a form."""
    try:
        yield
    except SanaError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (worded(error.args[0]), *error.args[1:])
        raise


def told(error: BaseException) -> str:
    """Return what a page says of what ended a run: an error's lines in such words, without passwords."""
    text = str(error) if isinstance(error, Exception) else ""
    return worded(without_password(text or why_ended(error)))


def worded(message: str) -> str:
    """Return a message as a run with a form tells it, which Prefect keeps several times: of a long one the start."""
    config = _form_config.get()
    if config is None:
        return message
    text = as_form(message, config)
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 3]}..."


def as_form(message: str, config: str) -> str:
    """Return a message with parameters in place of options, and with this config in the commands that it names.

    `sana run CONFIG --force train` becomes "run the deployment pipeline with `force` train", `-s key=value` is
    "key=value in `overrides`".
    """
    text = re.sub(rf"\bsana run CONFIG((?: {_OPTION})+)", _as_run, message)
    text = re.sub(r"\bsana run CONFIG\b", "run the deployment again", text)
    text = re.sub(rf"{_OVERRIDE}((?: {_OVERRIDE})*)", _as_overrides, text)
    text = re.sub(r"--(until|force|root)\b", r"`\1`", text)
    return re.sub(r"\b(sana [\w-]+) CONFIG\b", lambda found: f"{found[1]} {shlex.quote(config)}", text)


def _as_run(found: re.Match[str]) -> str:
    words = found[1].split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return "run the deployment pipeline with " + " and ".join(
        f"`{option.removeprefix('--')}` {stage}" for option, stage in pairs
    )


def _as_overrides(found: re.Match[str]) -> str:
    settings = re.findall(_OVERRIDE, found[0])
    return f"{' and '.join(settings)} in `overrides`"
