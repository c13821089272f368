"""Defaults of Prefect and MLflow, set before Prefect is imported; what the user has set stays."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import urlsplit

from flows.display.wrapping import say
from sana.errors import SanaError
from sana.wording import without_password

OUR_LOGGERS = ("sana", "tasks")


def prepare_environment(work_dir: str | Path, *, quiet: bool = False) -> None:
    """Set what an in-process run needs: no telemetry, Prefect's files under `work_dir`, our logs in Prefect's.

    `quiet`: the terminal, which shows progress and errors by itself, gets our warnings and nothing else.
    """
    defaults = {
        "DO_NOT_TRACK": "true",  # MLflow does not take "1"
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each stage of a run on a server
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short on a busy machine
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(OUR_LOGGERS),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a line from a thread, or before the flow
    }
    # whoever has chosen a server with `prefect config set` has a profile, which another home would hide
    if "PREFECT_API_URL" not in os.environ and not os.path.exists(os.path.expanduser("~/.prefect/profiles.toml")):
        defaults["PREFECT_HOME"] = str(Path(work_dir).absolute() / "prefect")
    if quiet:
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        defaults["PREFECT_INTERNAL_LOGGING_LEVEL"] = "CRITICAL"  # whole events that could not be sent
        # Prefect's threads write to stderr what its server did not take; a run says that by itself, once
        logging.raiseExceptions = False
        for name in OUR_LOGGERS:
            logging.getLogger(name).addHandler(_Terminal(logging.WARNING))
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def prefect_is_configured() -> bool:
    """Tell whether any of the places that Prefect reads its settings from has one, without importing Prefect (1 s).

    The environment names a server, or there is a profile, or the working folder has settings of Prefect.
    """
    if "PREFECT_API_URL" in os.environ:  # set to nothing, it hides what the other places say
        return os.environ["PREFECT_API_URL"] != ""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    # os.path, not Path, which raises where a folder may not be looked into
    if os.path.exists(profiles) or os.path.exists("prefect.toml"):
        return True
    return any(
        os.path.isfile(path) and mark in path.read_text(encoding="utf-8", errors="replace").lower()
        for path, mark in ((Path(".env"), "prefect_"), (Path("pyproject.toml"), "[tool.prefect"))
    )


def settings_error(error: ValueError) -> SanaError:
    """Say in one line what Prefect said of its settings while it was imported: pydantic, or a file that is no TOML."""
    errors: list[dict[str, Any]] = getattr(error, "errors", list)()
    said = _wrong_address() or ", ".join(_said_of(one) for one in errors) or error
    return SanaError(
        f"Prefect does not take its settings ({said}); mend the PREFECT_ variable, or the line of "
        "the profile (prefect config view), .env, prefect.toml or pyproject.toml"
    )


def _said_of(error: dict[str, Any]) -> str:
    """Write an error of pydantic's: of a value that one setting has, or, without a place, of all of them."""
    place, said = ".".join(str(part) for part in error["loc"]), str(error["msg"]).removeprefix("Value error, ")
    return f"{place} is {error['input']!r}: {said}" if place else said


def _wrong_address() -> str:
    """Say that PREFECT_API_URL is no address, which pydantic says of no setting; "" if it is one."""
    url = os.environ.get("PREFECT_API_URL", "")
    try:
        urlsplit(url).port  # noqa: B018
    except ValueError as error:
        return f"PREFECT_API_URL {without_password(url)} is no address: {error}"
    return ""


@contextmanager
def importing_prefect() -> Iterator[None]:
    """Import Prefect within it. What it writes to stderr on the way is kept back if it fails: the error says it.

    Raises:
        SanaError: Prefect does not take its settings.
    """
    before, held = sys.stderr, _Held(sys.stderr)
    sys.stderr = cast(TextIO, held)
    try:
        yield
    except ValueError as error:
        raise settings_error(error) from error
    else:
        held.release()
    finally:
        sys.stderr = before


class _Held:
    """A stream whose texts are kept until `release`; whoever has taken it for stderr meanwhile writes on through it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._texts: list[str] | None = []

    def write(self, text: str) -> int:
        if self._texts is None:
            return self._stream.write(text)
        self._texts.append(text)
        return len(text)

    def release(self) -> None:
        texts, self._texts = self._texts or [], None
        self._stream.write("".join(texts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Terminal(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, for a progress bar may have put itself before it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}", err=True)
