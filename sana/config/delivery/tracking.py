"""Config of tracking: where runs are recorded and under which names, and the trackers that hear of them as well."""

import importlib.util
import string
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.section import Section

RUN_NAME_FIELDS = ("config", "method", "dataset", "date", "time", "key")
RUN_NAME = "{config} {method} {dataset} {date} {time}"


class TrackerConfig(Section):
    """A tracker beside MLflow: keys and addresses of servers are its own environment variables, never a setting."""

    kind: Literal["wandb", "tensorboard"] = Field(description="which; its package is of the extra `trackers`")
    project: str | None = Field(
        None, min_length=1, max_length=128, description="of wandb; unset: tracking.experiment; has none of / # ? % :"
    )
    name: str | None = Field(
        None, min_length=1, description="of the run, with the same fields as run_name; unset: tracking.run_name"
    )
    mode: Literal["online", "offline"] = Field(
        "online", description="of wandb; offline: files under folder, which `wandb sync` sends"
    )
    folder: str | None = Field(
        None, min_length=1, description="local folder of its files; unset: `wandb` or `tensorboard` in work_dir"
    )

    @field_validator("kind")
    @classmethod
    def _is_installed(cls, kind: str) -> str:
        if importlib.util.find_spec(kind) is None:
            raise ValueError(
                f"{kind} is not installed here: pip install 'sana-video-pipeline[trackers]', or leave it out"
            )
        return kind

    @field_validator("name")
    @classmethod
    def _name_is_a_template(cls, name: str | None) -> str | None:
        return None if name is None else checked_template(name)

    @model_validator(mode="after")
    def _only_wandb_has_projects(self) -> Self:
        if self.kind == "tensorboard" and (self.project is not None or self.mode == "offline"):
            key = "project" if self.project is not None else "mode"
            raise ValueError(f"{key} is of wandb; tensorboard takes name and folder")
        if found := [char for char in self.project or "" if char in "/\\#?%:"]:
            raise ValueError(f"project has {found[0]!r}, which wandb does not take in one; write - for it")
        return self


class TrackingConfig(Section):
    experiment: str = Field("sana-video", min_length=1, description="MLflow experiment")
    uri: str | None = Field(None, description="MLflow server; unset: MLFLOW_TRACKING_URI, else sqlite in work_dir")
    run_name: str = Field(
        RUN_NAME,
        min_length=1,
        max_length=200,
        description="name of a run: text with any of {config} {method} {dataset} {date} {time} {key}: the config's "
        "file name, train.method, ids of the data sets, day and minute (UTC) at which it first ran, 8 letters that "
        "equal settings share",
    )
    registered_model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^/:]+$",
        description="model of MLflow's registry that each trained model becomes a version of; unset: `experiment`",
    )
    promote: bool = Field(
        False,
        description="at the end of a run, give its version the alias champion if it is surely better than the one that "
        "has it: on the same eval list and base the paired difference is below 0 by 2 standard errors. Off: `sana "
        "promote` does it when asked",
    )
    system_metrics_every: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="load and memory of CPU, GPU, disk and network of the machine of the run, while a stage works: "
        "once in so many seconds; 0: never",
    )
    also: tuple[TrackerConfig, ...] = Field(
        (),
        max_length=8,
        description="trackers that hear of the curves as well, such as [wandb, tensorboard], or with settings "
        "[{kind: wandb, project: videos}]; what they cannot take fails no run and delays none",
    )

    @field_validator("run_name")
    @classmethod
    def _run_name_is_a_template(cls, name: str) -> str:
        return checked_template(name)

    @field_validator("also", mode="before")
    @classmethod
    def _names_are_kinds(cls, also: Any) -> Any:
        if not isinstance(also, list | tuple):
            return also
        return [{"kind": one} if isinstance(one, str) else one for one in also]

    @model_validator(mode="after")
    def _no_tracker_twice(self) -> Self:
        places = [(one.kind, one.project, one.folder, one.name) for one in self.also]
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise ValueError(f"also has {twice[0]} twice for one place; remove one, or give it another folder or name")
        return self


def checked_template(name: str) -> str:
    """Return the template of a run's name.

    Raises:
        ValueError: it is no template, or has a field that nothing fills in.
    """
    known = ", ".join(f"{{{field}}}" for field in RUN_NAME_FIELDS)
    try:
        parts = list(string.Formatter().parse(name))
    except ValueError as error:
        raise ValueError(
            f"{name!r} is no template of a name ({error}); it may have {known}, and {{{{ for {{"
        ) from error
    for _, field, layout, conversion in parts:
        if field is not None and (field not in RUN_NAME_FIELDS or layout or conversion):
            raise ValueError(f"nothing fills in {{{field}}} of {name!r}; a run's name may have {known}")
    if not name.isprintable() or not name.strip():
        raise ValueError(f"{name!r} has no letters, or some that nobody sees; a run's name may have {known}")
    return name
