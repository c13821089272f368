"""The whole pipeline as one flow: download to sample. Running it again does only what is missing."""

from typing import Any

from prefect import flow

from sana.pipeline import graph
from sana.pipeline.costs import check_trainable
from sana.pipeline.plan import plan
from sana.pipeline.run import Done, inputs_of
from tasks.flow_run import open_run, stages_of
from tasks.stages import task_of


@flow(name="sana-video", persist_result=False)
def sana_pipeline(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    until: str | None = None,
    force: list[str] | None = None,
) -> list[Done]:
    """Turn a video data set into a trained and evaluated model.

    Args:
        config: path of a YAML config.
        overrides: `key=value` each, such as train.learning_rate=1e-4.
        root: where artifacts live, instead of the config's.
        until: last stage to run.
        force: stages to run again though they are committed.
    """
    return run_stages(config, overrides, root, until, force)


def run_stages(
    config: str, overrides: list[str] | None, root: str | None, until: str | None, force: list[str] | None
) -> list[Done]:
    """Call the task of each stage of the config in order, each with the artifacts that provide the tables it reads.

    Raises:
        ConfigError: the config is wrong, it has no such stage, or training was measured not to fit.
    """
    run = open_run(config, overrides or (), root, force or ())
    names = graph.until(run.context.config, until)
    graph.check_force(run.context.config, force or (), until)
    check_trainable(run.context, lambda: plan(run.context, last=until, force=force or ()))  # before hours of encoding
    done: dict[str, Done] = {}
    with stages_of(run) as all_done:
        for name in names:
            # directly, not submitted: the kernel ties a worker's life to the thread that starts it
            state = task_of(name)(run, inputs_of(run, name, done), return_state=True)
            artifact: Any = state.result()
            done[name] = Done(name, (state.name or "").lower(), artifact)
            all_done.append(done[name])
    return all_done
