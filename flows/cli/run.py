"""`sana run`: ask storage first; start Prefect only if something is to be done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flows.cli.options import config_options, context_of, resolve, same_options, warn
from sana.artifact import Artifact
from sana.context import Context
from sana.pipeline.graph import STAGES

if TYPE_CHECKING:
    from sana.pipeline.plan import StagePlan


@click.command()
@config_options
@click.option("--until", type=click.Choice(STAGES), help="Stop after this stage.")
@click.option("--force", multiple=True, type=click.Choice(STAGES), help="Run this stage again although it is done.")
@click.option("--record", is_flag=True, help="Run the flow, with its records, even if all is cached.")
def run(
    config: str, overrides: Sequence[str], root: str | None, until: str | None, force: Sequence[str], record: bool
) -> None:
    """Run the pipeline: only what is missing or changed."""
    from flows.cli import show
    from sana.data.rejections import check_rejects
    from sana.pipeline.plan import all_cached, check_work_dir, plan, preflight

    settings = resolve(config, overrides, root)
    context = context_of(settings).keeping_opened()  # what planning lists is listed for the whole run
    check_work_dir(context)
    plans = plan(context, last=until, force=force)
    for stage_plan in plans:
        if stage_plan.artifact is not None:
            check_rejects(settings, stage_plan.artifact, context.store)
    if all_cached(plans) and not record:
        results = [(p.name, p.state, p.artifact) for p in plans if p.artifact is not None]
    else:
        preflight(context)
        results = _run_flow(context, plans, config, overrides, root, until, force)
    click.echo(show.result_table(results, context.store))
    for name, _, artifact in results:
        if name == "evaluate":
            click.echo(show.eval_lines(artifact))
        if name == "sample":
            click.echo(f"sampled videos: {context.store.uri(artifact.files['contact_sheet.png'].key)}")
    if all(state.lower() == "cached" for _, state, _ in results):
        click.echo("every stage is cached: nothing to do")
    click.echo(f"data report: sana report {same_options(config, overrides, root)}")
    click.echo(f"browse the runs: sana ui {same_options(config, overrides, root)}")


def _run_flow(
    context: Context,
    plans: "Sequence[StagePlan]",
    config: str,
    overrides: Sequence[str],
    root: str | None,
    until: str | None,
    force: Sequence[str],
) -> list[tuple[str, str, Artifact]]:
    """Run the flow in this process, on what was planned, with progress bars."""
    from flows.cli.show import RunDisplay
    from flows.environment import prepare_environment
    from flows.server import start_temporary_server, wait_until_up
    from sana.pipeline.advice import Advisor

    advisor = Advisor(context.config, warn)
    advisor.advise()
    prepare_environment(context.work_dir, quiet=True)  # the bars and the table say what Prefect's log would
    start_temporary_server(context.work_dir / "logs" / "prefect-server.log")
    from flows.pipeline import sana_pipeline
    from tasks.flow_run import handed_over

    wait_until_up()
    with RunDisplay() as display, handed_over(context, plans, [display, advisor]):
        done = sana_pipeline(config=config, overrides=list(overrides), root=root, until=until, force=list(force))
    return [(result.stage, result.state, result.artifact) for result in done]
