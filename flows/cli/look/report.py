"""`sana report`: the data report of a config, made from storage alone."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.options import config_options, context_of, program, resolve, same_options
from flows.cli.output.json_output import emit, json_option


@click.command()
@config_options
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False), default="report.html", show_default=True, help="The page."
)
@json_option("flows.cli.output.documents:ReportDocument")
def report(config: str, overrides: Sequence[str], root: str | None, out: str) -> None:
    """Make the data report: one HTML page on what became of every file. Also for a run that is not finished."""
    from flows.cli.output.documents import ReportDocument
    from sana.errors import SanaError
    from sana.pipeline.plan import committed
    from sana.report.page import data_report

    context = context_of(resolve(config, overrides, root), read_only=True)
    states = committed(context)
    if all(state.artifact is None for state in states):
        why = f" ({states[0].why})" if states[0].why else ""
        command = f"{program()} run {same_options(config, overrides, root)}"
        raise SanaError(f"nothing of {config} is committed under {context.store.root}{why}; first: {command}")
    page = data_report(context, Path(config).stem, states, now=time.time())
    try:
        Path(out).write_text(page, encoding="utf-8")
    except OSError as error:
        raise SanaError(f"cannot write {out}: {error.strerror}; choose another place with -o") from error
    click.echo(f"data report: {out}")
    emit(ReportDocument(out))
