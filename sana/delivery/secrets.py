"""Addresses and secrets: read from the environment or a file when they are needed; taken out of all that is told."""

import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from sana.config.delivery.notifications import NotificationTarget
from sana.config.places import at_home
from sana.errors import ConfigError
from sana.wording import without_password

HIDDEN = "***"
MAX_BYTES = 16 * 1024  # of a file that holds an address or a secret
_MIN_CHARS = 16  # of a part of an address that is taken for a secret
# what other programs keep secrets in: an error may quote one
_OF_OTHERS = (
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_KEY",
    "WANDB_API_KEY",
)


class Redactor:
    """Takes known secrets, and user and password of any address, out of a text: call it."""

    def __init__(self, secrets: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> None:
        known = {secret for secret in secrets if secret}
        known |= {part for secret in known for part in _secret_parts(secret)}
        known |= {environ[name] for name in _OF_OTHERS if len(environ.get(name, "")) >= 8}
        self._known = sorted(known, key=len, reverse=True)  # a whole address before its parts

    def __call__(self, text: str) -> str:
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        return without_password(text)


def _secret_parts(address: str) -> set[str]:
    """Return the parts of an address that are secret: long names in its path, values of its query, its password."""
    if "://" not in address:
        return set()
    try:
        split = urlsplit(address)
        parts = {*split.path.split("/"), *split.query.replace("=", "&").split("&"), split.password or ""}
    except ValueError:
        return set()
    host = split.netloc.rpartition("@")[2]
    return {part for part in (*parts, host if "." not in host else "") if len(part) >= _MIN_CHARS}


def read_url(target: NotificationTarget, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of a target. Raises ConfigError, which does not show it: it is not there or empty."""
    value = _read(target.url_env, target.url_file, "url", environ)
    assert value is not None  # a target has one
    return value


def read_secret(target: NotificationTarget, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the secret of a target, or None where it has none. Raises ConfigError as `read_url` does."""
    return _read(target.secret_env, target.secret_file, "secret", environ)


def _read(name: str | None, path: str | None, what: str, environ: Mapping[str, str]) -> str | None:
    if name is not None:
        value = environ.get(name, "").strip()
        if not value:
            raise ConfigError(f"the environment variable {name}, which {what}_env names, is not set here")
        return value
    if path is None:
        return None
    try:
        with at_home(path).open("rb") as file:
            value = file.read(MAX_BYTES).decode("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"the file that {what}_file names cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, RuntimeError):  # no text; no home folder for ~
        raise ConfigError(f"the file that {what}_file names holds no text; one line is needed") from None
    if not value or len(value.splitlines()) != 1:
        raise ConfigError(f"the file that {what}_file names has {'no' if not value else 'more than one'} line")
    return value
