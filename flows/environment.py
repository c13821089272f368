"""Defaults of Prefect and MLflow, set before Prefect is imported; what the user has set stays."""

import logging
import os
import sys
from pathlib import Path

OUR_LOGGERS = ("sana", "tasks")


def prepare_environment(work_dir: str | Path, *, quiet: bool = False) -> None:
    """Set what an in-process run needs: no telemetry, Prefect's files under `work_dir`, our logs in Prefect's.

    `quiet`: the terminal, which shows progress and errors by itself, gets our warnings and nothing else.
    """
    defaults = {
        "DO_NOT_TRACK": "true",  # MLflow does not take "1"
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short on a busy machine
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(OUR_LOGGERS),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a line from a thread, or before the flow
    }
    # whoever has chosen a server with `prefect config set` has a profile, which another home would hide
    if "PREFECT_API_URL" not in os.environ and not Path("~/.prefect/profiles.toml").expanduser().exists():
        defaults["PREFECT_HOME"] = str(Path(work_dir).absolute() / "prefect")
    if quiet:
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        for name in OUR_LOGGERS:
            logging.getLogger(name).addHandler(_Terminal(logging.WARNING))
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


class _Terminal(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, for a progress bar may have put itself before it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.levelname.lower()}: {record.getMessage()}\n")
