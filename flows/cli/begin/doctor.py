"""`sana doctor`: is this machine fit for a run? One line for each thing that a run needs."""

import os
import sys
from collections.abc import Sequence

import click

from flows.cli.options import load_options, program, resolve, same_options
from flows.cli.output.completion import ConfigPath
from flows.cli.output.json_output import emit, is_json, json_option
from flows.display.wrapping import say
from sana.errors import SanaError


@click.command()
@click.argument("config", required=False, type=ConfigPath())
@load_options
@json_option("flows.doctor.finding:Diagnosis")
def doctor(config: str | None, overrides: Sequence[str], root: str | None) -> None:
    """Look at this machine: a line each for what a run needs, and what to do about what is not right.

    Versions, GPU and driver, decoder, memory and limits, disks, credentials (present, never shown), ports, Prefect,
    MLflow, and the clock. CONFIG is not needed; with it, its places are looked at. Exit code 1 if a line is `fail`.
    `sana check` is for the data.
    """
    from flows.doctor.examination import checks_of, valid
    from flows.doctor.finding import Finding, diagnose, fail
    from flows.doctor.subject import Subject
    from flows.doctor.text import lines_of

    subject = Subject(None)
    read: Finding | None = None
    if config is None and overrides:
        raise SanaError("-s changes a config, so name one: sana doctor CONFIG")
    if config is None and root is not None:
        subject = Subject(None, root)
    elif config is not None:
        try:
            subject = Subject.of(resolve(config, overrides, root))
            read = valid(config)
        except SanaError as error:
            text = " ".join(line.strip() for line in str(error).splitlines())
            read = fail(text, "mend it, then ask again; what follows is of the defaults")
    found = diagnose(checks_of(subject, read))
    emit(found)
    if not is_json():
        for line in lines_of(found):
            click.echo(line, color=False if os.environ.get("NO_COLOR") else None)
        if found.verdict != "fail":
            no_gpu = any(line.name == "gpu" and line.verdict != "ok" for line in found.checks)
            for command in _next(config, overrides, root, no_gpu=no_gpu):
                say(f"next: {command}", command=command)
    if found.verdict == "fail":
        sys.exit(1)


def _next(config: str | None, overrides: Sequence[str], root: str | None, *, no_gpu: bool) -> Sequence[str]:
    """Return what to type now; without a GPU it is a trial with a tiny model."""
    if config is not None:
        return (f"{program()} plan {same_options(config, overrides, root)}",)
    if no_gpu:
        return f"{program()} make-tiny-model tiny", f"{program()} init path/to/clips -o my.yaml --model tiny"
    return (f"{program()} init path/to/clips -o my.yaml",)
