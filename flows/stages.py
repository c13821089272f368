"""What the flows have in common: the stages of a config, one task each, and what the log of the run says at its end."""

from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger

from flows.display import show
from sana.context import Context
from sana.errors import ConfigError
from sana.pipeline import graph
from sana.pipeline.costs import check_trainable
from sana.pipeline.plan import plan
from sana.pipeline.run import Done, inputs_of
from tasks.flow_run import is_handed_over, open_run, stages_of
from tasks.form_terms import in_form_terms
from tasks.stages import task_of


def run_stages(
    config: str,
    overrides: Sequence[str] | None,
    root: str | None,
    until: str | None,
    force: Sequence[str] | None,
) -> list[Done]:
    """Call the task of each stage of the config in order, each with the artifacts that provide the tables it reads.

    Raises:
        ConfigError: the config is wrong, it has no such stage, or training was measured not to fit.
    """
    # what a deployment starts is told of its form's fields; `sana run`, which plans by itself, of its own options
    with in_form_terms(config, wanted=not is_handed_over()):
        return _run_stages(config, overrides, root, until, force, trained=False)


def run_trained(
    stage: str, config: str, overrides: Sequence[str] | None, root: str | None, *, force: bool
) -> list[Done]:
    """Do what comes after training, up to this stage, of a training that is finished; `force` does the stage again.

    Raises:
        ConfigError: the config is wrong, or something up to training is not finished.
    """
    with in_form_terms(config, wanted=not is_handed_over()):
        return _run_stages(config, overrides, root, stage, [stage] if force else (), trained=True)


def _run_stages(
    config: str,
    overrides: Sequence[str] | None,
    root: str | None,
    until: str | None,
    force: Sequence[str] | None,
    *,
    trained: bool,
) -> list[Done]:
    run = open_run(config, overrides or (), root, force or ())
    names = graph.until(run.context.config, until)
    graph.check_force(run.context.config, force or (), until)
    if trained:
        _check_trained(run.context, names[-1])
    else:  # before hours of encoding
        check_trainable(run.context, lambda: plan(run.context, last=until, force=force or ()))
    done: dict[str, Done] = {}
    with stages_of(run) as all_done:
        for name in names:
            # directly, not submitted: the kernel ties a worker's life to the thread that starts it
            state = task_of(name)(run, inputs_of(run, name, done), return_state=True)
            artifact: Any = state.result()
            done[name] = Done(name, (state.name or "").lower(), artifact)
            all_done.append(done[name])
    _log_summary(run.context, all_done, config)
    return all_done


def _check_trained(context: Context, last: str) -> None:
    """Check that all up to training is committed.

    Raises:
        ConfigError: something is not; says what.
    """
    missing = next((one for one in plan(context, last="train") if one.artifact is None), None)
    if missing is not None:
        why = f" ({missing.detail})" if missing.detail else ""
        raise ConfigError(
            f"{last} needs a finished training of this config and these sources under {context.store.root}, and "
            f"{missing.name} is {missing.state}{why}. Run the deployment train or pipeline with them first"
        )


def _log_summary(context: Context, done: list[Done], config: str) -> None:
    """Log what `sana run` prints at its end: the table of stages, the eval loss, where the model and the videos are."""
    lines = [show.result_table([(one.stage, one.state, one.artifact) for one in done], context.store)]
    for one in done:
        lines += show.stage_lines(one.stage, one.artifact, context.store, f"sana export-model {config} --to FOLDER")
    logger = get_run_logger()
    for line in lines:
        logger.info("%s", line)
