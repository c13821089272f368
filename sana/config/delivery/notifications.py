"""Config of notifications: who is told of a run, and of what. Addresses and secrets are never values of a config."""

import re
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sana.config.section import Section

Level = Literal["debug", "info", "warning", "error"]
Kind = Literal["run", "stage", "progress", "checkpoint", "validation", "preview", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
_USUAL: tuple[Kind, ...] = ("run", "stage", "checkpoint", "validation", "error")
# no run of 16 letters and digits: keys and tokens of capital letters have one, names of variables hardly
_ENV_NAME = r"(?!.*(?=[A-Z]*\d)[A-Z\d]{16})[A-Z][A-Z0-9_]{0,63}"
_PATH = r"(/|~/|\./|\.\./)[^\0]*"


class NotificationTarget(Section):
    kind: Literal["webhook", "apprise"] = Field(
        "webhook",
        description="webhook: JSON as docs/notifications.md describes; apprise: Discord, Slack, mail and whatever else "
        "apprise has an address for, as text",
    )
    url_env: str | None = Field(None, description="environment variable that holds the address, such as SANA_WEBHOOK")
    url_file: str | None = Field(None, description="file that holds the address: a path that begins with /, ~/ or ./")
    secret_env: str | None = Field(
        None, description="environment variable with the secret by which each request to a webhook is signed"
    )
    secret_file: str | None = Field(None, description="file with that secret: a path that begins with /, ~/ or ./")
    events: tuple[Kind, ...] = Field(
        _USUAL,
        min_length=1,
        description="what is told. error: what is of level error, whichever event it is; progress: how far a stage is",
    )
    min_level: Level = Field(
        "info", description="what is less than this is not told; debug: stages that are cached too"
    )
    progress_every_s: float = Field(
        600.0, ge=1.0, le=86_400.0, description="progress and previews: at most one each in this time, seconds"
    )
    timeout_s: float = Field(10.0, ge=0.1, le=60.0, description="time limit of each try, all of it, seconds")
    max_tries: int = Field(3, ge=1, le=10, description="how often one notification is tried, with growing pauses")

    @field_validator("url_env", "secret_env")
    @classmethod
    def _names_a_variable(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and not re.fullmatch(_ENV_NAME, name):
            what = "address" if info.field_name == "url_env" else "secret"
            raise ValueError(
                f"needs the name of an environment variable: capital letters, digits and _, at most 64. What was given "
                f"is not shown, as it may be the {what} itself, which has no place in a config: put that into a "
                "variable, and its name here"
            )
        return name

    @field_validator("url_file", "secret_file")
    @classmethod
    def _names_a_file(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None and not re.fullmatch(_PATH, path):
            what = "address" if info.field_name == "url_file" else "secret"
            raise ValueError(
                f"needs the path of a file, which begins with /, ~/, ./ or ../. What was given is not shown, as it may "
                f"be the {what} itself, which has no place in a config: put that into a file, and its path here"
            )
        return path

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.url_env is None) == (self.url_file is None):
            raise ValueError("needs the address by one of url_env and url_file")
        if self.secret_env is not None and self.secret_file is not None:
            raise ValueError("secret_env and secret_file are both given; keep one")
        if self.kind == "apprise" and (self.secret_env or self.secret_file):
            raise ValueError("secret_env and secret_file are for kind: webhook; apprise's addresses hold their own")
        return self


class NotificationsConfig(Section):
    """Who is told of a run. Nothing here enters a hash."""

    targets: tuple[NotificationTarget, ...] = Field((), max_length=16, description="who is told")
    prefect_events: bool = Field(
        True, description="also emit Prefect events, sana.<event>.<state>, where a run is on a server of Prefect's"
    )
    queue_size: int = Field(
        100, ge=1, le=10_000, description="notifications that wait for a target; beyond it the least are dropped"
    )
    drain_s: float = Field(
        5.0, ge=0.0, le=60.0, description="how long the end of a run waits for what is not sent yet, seconds"
    )
