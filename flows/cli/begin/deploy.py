"""`sana deploy`: a prefect.yaml whose deployments are those of the installed program, for a folder that is no clone."""

import copy
import os
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypedDict

import click
import yaml

from flows.cli.options import load_options, program, resolve
from flows.cli.output.completion import ConfigPath
from flows.display.wrapping import say
from sana.config.places import at_home
from sana.errors import ConfigError, SanaError

PACKAGE = "sana-video-pipeline"
POOL = "local-process"
NIGHTLY = "0 3 * * *"
# of each deployment: what it is named, and its flow, which is imported where a run of it starts
FLOWS = {
    "pipeline": "flows.pipeline.sana_pipeline",
    "prepare": "flows.prepare.prepare",
    "train": "flows.train.train",
    "evaluate": "flows.evaluate.evaluate",
    "sample": "flows.sample.sample",
    "validation": "flows.validation.validation",
}
ENCODE_WORKER = ("encode-worker", "flows.encode_worker.encode_worker")  # encode_latents starts it by this name
# of processes that runs start in; strings only. What the worker's own environment has is inherited
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "sana,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


class FormValues(TypedDict, total=False):
    """What a deployment's form is filled with, by the names of the flow's parameters."""

    config: str
    overrides: list[str]
    root: str


class Schedule(TypedDict):
    """When runs start; one that is not active waits to be switched on."""

    cron: str
    timezone: str
    active: bool


class ConcurrencyLimit(TypedDict):
    """How many runs may go on at once, and what becomes of one more."""

    limit: int
    collision_strategy: str


class WorkPool(TypedDict):
    """In which pool runs start, and with what."""

    name: str
    job_variables: dict[str, dict[str, str]]


class Deployment(TypedDict):
    """One deployment, as prefect.yaml has it."""

    name: str
    entrypoint: str
    tags: list[str]
    parameters: FormValues
    enforce_parameter_schema: bool
    work_pool: WorkPool
    concurrency_limit: NotRequired[ConcurrencyLimit]
    schedules: NotRequired[list[Schedule]]


# as it is written; one of the names is no identifier
PrefectFile = TypedDict(
    "PrefectFile",
    {
        "name": str,
        "prefect-version": str,
        "pull": list[dict[str, dict[str, str]]],
        "deployments": list[Deployment],
    },
)


@click.command()
@click.argument("config", type=ConfigPath(), required=False)
@load_options
@click.option("--pool", default=POOL, show_default=True, help="Work pool in which the runs start.")
@click.option("--name", help="Put before the name of each deployment, for several configs on one server: NAME-train.")
@click.option("--schedule", metavar="CRON", help="Run the pipeline at these times, such as '0 3 * * *'.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of the schedule.")
@click.option("-o", "--out", type=click.Path(), default="prefect.yaml", show_default=True, help="File to write.")
def deploy(
    config: str | None,
    overrides: Sequence[str],
    root: str | None,
    pool: str,
    name: str | None,
    schedule: str | None,
    timezone: str,
    out: str,
) -> None:
    """Write a prefect.yaml for this folder: deployments of the installed program, with CONFIG in their forms."""
    if config is not None:
        resolve(config, overrides, root)  # what is wrong with it is told now, not by the first run
    elif overrides or root:
        raise ConfigError("-s and --root change a config: name the config, sana deploy CONFIG, or leave them out")
    if schedule is not None:
        _check_schedule(schedule, timezone)
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"--name {name!r}: letters, digits, '.', '-' and '_' are needed, such as --name bunny")
    folder = Path.cwd()
    parameters = parameters_of(config, overrides, root, folder)
    described = deployments(
        parameters, folder, pool=pool, prefix=f"{name}-" if name else "", cron=schedule, timezone=timezone
    )
    _check_no_placeholders([*parameters.values(), pool, str(folder)])
    path = Path(out)
    of_file = "" if path.name == out == "prefect.yaml" else f" --prefect-file {shlex.quote(out)}"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(as_yaml(described, of_file))
    except FileExistsError as error:
        raise SanaError(
            f"{out} is there already and is left as it is; write another one, {program()} deploy ... -o "
            "my-prefect.yaml, or move it away first"
        ) from error
    except OSError as error:
        raise SanaError(f"cannot write {out}: {error.strerror}; name another file by -o") from error
    say(f"{out} has {len(described['deployments'])} deployments. Next, with PREFECT_API_URL set to your server:")
    for command in _next_commands(described, of_file):
        say(f"  {command}", command=command)


def parameters_of(config: str | None, overrides: Sequence[str], root: str | None, folder: Path) -> FormValues:
    """Return what the forms are filled with. A config below the folder that runs start in is named from there."""
    if config is None:
        return {}
    given = FormValues()
    path = Path(os.path.abspath(at_home(config)))  # without .., and with links as they are
    named = path.relative_to(folder) if path.is_relative_to(folder) else path
    given["config"] = str(named)
    if overrides:
        given["overrides"] = list(overrides)
    if root:
        given["root"] = root
    return given


def deployments(
    parameters: FormValues, folder: Path, *, pool: str, prefix: str, cron: str | None, timezone: str
) -> PrefectFile:
    """Return the content of a prefect.yaml. `cron`: of the pipeline; where it is None, nightly, and switched off."""
    schedule = Schedule(cron=cron or NIGHTLY, timezone=timezone, active=cron is not None)

    def deployment(name: str, entrypoint: str) -> Deployment:
        return {
            "name": name,
            "entrypoint": entrypoint,
            "tags": ["sana"],
            "parameters": copy.deepcopy(parameters),  # else the file would have references
            "enforce_parameter_schema": True,
            "work_pool": {"name": pool, "job_variables": {"env": dict(ENVIRONMENT)}},
        }

    listed = []
    for name, entrypoint in FLOWS.items():
        one = deployment(f"{prefix}{name}", entrypoint)
        # two runs would only do the same work twice: the second waits, then finds most of it done
        one["concurrency_limit"] = {"limit": 1, "collision_strategy": "ENQUEUE"}
        if name == "pipeline":
            one["schedules"] = [schedule]
        listed.append(one)
    return {
        "name": PACKAGE,
        "prefect-version": version("prefect"),
        "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
        "deployments": [*listed, deployment(*ENCODE_WORKER)],
    }


def as_yaml(described: PrefectFile, of_file: str) -> str:
    """Return the file, with what to do with it as its head."""
    steps = "\n".join(f"#   {command}" for command in _next_commands(described, of_file))
    head = (
        f"# Deployments of the installed sana-video-pipeline {version(PACKAGE)}, by `sana deploy`:\n{steps}\n"
        "# Runs start in the folder that `pull` names: relative paths, in the forms and in configs, are from there. A\n"
        "# worker needs this program in its environment, and on another machine this folder or another in `pull`.\n"
    )
    return head + yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120)


def _next_commands(described: PrefectFile, of_file: str) -> list[str]:
    first = described["deployments"][0]
    quoted = shlex.quote(first["work_pool"]["name"])
    return [
        f"prefect work-pool create {quoted} --type process",
        f"prefect --no-prompt deploy --all{of_file}",
        f"prefect worker start --pool {quoted}",
        f"prefect deployment run sana-video/{first['name']}",
    ]


def _check_no_placeholders(values: Sequence[object]) -> None:
    """Check that Prefect will take each value as it is.

    Raises:
        ConfigError: one looks like a placeholder, which Prefect would replace.
    """
    for value in values:
        if re.search(r"\{\{|\}\}", str(value)):
            raise ConfigError(f"{value!r}: Prefect fills in what is between {{{{ and }}}}, so use a name without them")


def _check_schedule(cron: str, timezone: str) -> None:
    """Check a schedule by Prefect itself.

    Raises:
        ConfigError: it is none.
    """
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(
            f"--schedule {cron!r} in --timezone {timezone!r} is no schedule: cron's five fields are needed, minute "
            "hour day month weekday, such as '0 3 * * *', and a zone such as Europe/Berlin"
        ) from error
