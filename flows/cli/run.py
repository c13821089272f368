"""`sana run`: ask storage first; start Prefect only if something is to be done."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from flows.cli.options import (
    config_options,
    context_of,
    program,
    rehash_files,
    rehash_option,
    resolve,
    same_options,
    warn,
)
from flows.cli.output.endings import on_signal
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from flows.local_run import FlowParameters, LocalPrefect
from sana.artifact import Artifact
from sana.context import Context
from sana.errors import why_ended
from sana.pipeline.graph import STAGES
from sana.pipeline.observers import FAILED, STOPPED

if TYPE_CHECKING:
    from flows.display.progress_display import RunDisplay
    from sana.pipeline.plan import StagePlan


@click.command()
@config_options
@click.option("--until", type=click.Choice(STAGES), help="Stop after this stage.")
@click.option("--force", multiple=True, type=click.Choice(STAGES), help="Run this stage again although it is done.")
@click.option("--record", is_flag=True, help="Run the flow, with its records, even if all is cached.")
@rehash_option
@json_option("flows.cli.output.documents:RunDocument")
def run(
    config: str,
    overrides: Sequence[str],
    root: str | None,
    until: str | None,
    force: Sequence[str],
    record: bool,
    rehash: bool,
) -> None:
    """Run the pipeline: only what is missing or changed."""
    from flows.cli.output.of_run import run_document
    from flows.display import show
    from flows.display.outcome import rows_of_plan
    from sana.pipeline.costs import check_trainable
    from sana.pipeline.plan import all_cached, check_work_dir, never_finished, plan, preflight

    settings = resolve(config, overrides, root)
    say(f"{config}: looking at what is done under {settings.root}", err=True)
    context = context_of(settings).keeping_opened()  # what planning lists is listed for the whole run
    check_work_dir(context.work_dir)
    prefect = LocalPrefect(context.work_dir, lambda line: say(line, err=True))
    with ExitStack() as before_the_flow:
        before_the_flow.callback(prefect.stop)
        if record or force or never_finished(context, until):  # there is work, so it comes up beside planning
            prefect.start()
        plans = plan(context, last=until, force=force, rehashed=rehash_files(context) if rehash else None)
        force = [*force, *(stage_plan.name for stage_plan in plans if stage_plan.must_force)]
        if stop := next((stage_plan.stops for stage_plan in plans if stage_plan.stops), None):
            say(show.result_table(rows_of_plan(plans), context.store))
            emit(run_document(config, context.store, rows_of_plan(plans), state=FAILED, error=str(stop)))
            raise stop
        needed = record or not all_cached(plans)
        if needed:
            prefect.start()
            for note in preflight(context):
                say(f"note: {note}", err=True)
            check_trainable(context, plans)
        before_the_flow.pop_all()
    same = same_options(config, overrides, root)
    if needed:
        command = f"{program()} run {same}{f' --until {until}' if until else ''}"
        parameters = FlowParameters(config=config, overrides=list(overrides), root=root, until=until, force=list(force))
        with _told_where_it_ended(config, context, plans, command, force) as display:
            results = _run_flow(prefect, context, plans, display, parameters)
    else:
        results = [(p.name, p.state, p.artifact) for p in plans if p.artifact is not None]
    say(show.result_table(results, context.store))
    for name, _, artifact in results:
        export = f"{program()} export-model {same} --to FOLDER"
        for line in show.stage_lines(name, artifact, context.store, export):
            say(line, command=export)
    if all(state.lower() == "cached" for _, state, _ in results):
        say("every stage is cached: nothing to do")
    pages = {"data report": f"report {same}", "run report": f"report {same} --run", "browse the runs": f"ui {same}"}
    if not any(name == "train" for name, _, _ in results):
        del pages["run report"]
    for what, arguments in pages.items():
        say(f"{what}: {program()} {arguments}", command=f"{program()} {arguments}")
    emit(run_document(config, context.store, results))


@contextmanager
def _told_where_it_ended(
    config: str, context: Context, plans: "Sequence[StagePlan]", command: str, force: Sequence[str]
) -> "Iterator[RunDisplay]":
    """Give the display of a run; when an error, Ctrl-C or a signal ends it, say what is done and how to continue."""
    from flows.cli.output.of_run import run_document
    from flows.display import show
    from flows.display.outcome import how_to_continue, rows_of_run
    from flows.display.progress_display import RunDisplay

    display = RunDisplay()
    # by SIGUSR1 a scheduler says that it will start the run again. Prefect has its own handler while the flow runs
    # for SIGTERM, and then calls that of `main`
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield display
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it is ending
        rows = rows_of_run([p.name for p in plans], display.views)
        if display.views:
            say(show.result_table(rows, context.store))
        how = [how_to_continue(context, view, command, force) for view in display.views.values() if view.is_broken]
        for line in how:
            say(line, command=line[line.rfind(command) :] if command in line else "")
        state = FAILED if isinstance(error, Exception) else STOPPED
        emit(run_document(config, context.store, rows, state=state, error=why_ended(error), how=how))
        raise
    finally:
        signal.signal(signal.SIGUSR1, before)


def _run_flow(
    prefect: LocalPrefect,
    context: Context,
    plans: "Sequence[StagePlan]",
    display: "RunDisplay",
    parameters: FlowParameters,
) -> list[tuple[str, str, Artifact]]:
    """Run the flow in this process, on what was planned, with progress bars."""
    from sana.pipeline.advisor import Advisor

    advisor = Advisor(context.config, warn)
    advisor.advise_on(plans)
    with display:
        done = prefect.run(context, plans, [display, advisor], parameters)
    return [(result.stage, result.state, result.artifact) for result in done]
