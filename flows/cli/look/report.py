"""`sana report`: the data report of a config, or the report of a training, made from storage alone."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import config_options, context_of, program, resolve, same_options
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say

if TYPE_CHECKING:
    from sana.context import Context

_OWN = ""  # --run without a name


@click.command()
@config_options
@click.option(
    "--run",
    "training",
    is_flag=False,
    flag_value=_OWN,
    default=None,
    metavar="[NAME]",
    help="The run report instead: did it learn, its curves, samples and cost. Of the config's training; NAME: of "
    "another of this root: a fingerprint, a trajectory, or a run.",
)
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False), help="The page. [default: report.html; run_report.html with --run]"
)
@json_option("flows.cli.output.documents:ReportDocument")
def report(config: str, overrides: Sequence[str], root: str | None, training: str | None, out: str | None) -> None:
    """Make the data report: one HTML page on what became of every file. Also for a run that is not finished."""
    from flows.cli.output.documents import ReportDocument
    from sana.errors import SanaError

    context = context_of(resolve(config, overrides, root), read_only=True)
    first = f"{program()} run {same_options(config, overrides, root)}"
    if training is None:
        what, path, page = "data report", out or "report.html", _data_page(context, config, first)
    else:
        what, path, page = "run report", out or "run_report.html", _run_page(context, config, training, first)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise SanaError(f"cannot write {path}: {error.strerror}; choose another place with -o") from error
    say(f"{what}: {path}")
    emit(ReportDocument(path))


def _data_page(context: "Context", config: str, first: str) -> str:
    from sana.errors import SanaError
    from sana.pipeline.plan import committed
    from sana.report.page import data_report

    states = committed(context)
    if all(state.artifact is None for state in states):
        why = f" ({states[0].why})" if states[0].why else ""
        raise SanaError(f"nothing of {config} is committed under {context.store.root}{why}; first: {first}")
    return data_report(context, Path(config).stem, states, now=time.time())


def _run_page(context: "Context", config: str, training: str, first: str) -> str:
    from sana.comparison.lineage import Lineage
    from sana.errors import SanaError
    from sana.pipeline.plan import committed
    from sana.pipeline.training_subject import subject_of
    from sana.report.training.find import find_subject
    from sana.report.training.page import training_report

    if training != _OWN:
        return training_report(find_subject(Lineage(context.store), training), now=time.time())
    artifacts = {state.name: state.artifact for state in committed(context) if state.artifact is not None}
    subject = subject_of(context, Path(config).stem, artifacts)
    if subject is None:
        raise SanaError(f"nothing of {config} can have been trained under {context.store.root}; first: {first}")
    return training_report(subject, now=time.time())
