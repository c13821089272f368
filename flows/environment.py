"""Defaults of Prefect and MLflow, set before Prefect is imported; what the user has set stays."""

import os
from pathlib import Path


def prepare_environment(work_dir: str | Path, *, quiet: bool = False) -> None:
    """Set what an in-process run needs: no telemetry, Prefect's files under `work_dir`, our logs in Prefect's.

    `quiet`: only warnings reach the terminal, which shows progress by itself.
    """
    defaults = {
        "DO_NOT_TRACK": "true",  # MLflow does not take "1"
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short on a busy machine
        "PREFECT_LOGGING_EXTRA_LOGGERS": "sana,tasks",
    }
    # whoever has chosen a server with `prefect config set` has a profile, which another home would hide
    if "PREFECT_API_URL" not in os.environ and not Path("~/.prefect/profiles.toml").expanduser().exists():
        defaults["PREFECT_HOME"] = str(Path(work_dir).absolute() / "prefect")
    if quiet:
        defaults["PREFECT_LOGGING_LEVEL"] = "WARNING"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
