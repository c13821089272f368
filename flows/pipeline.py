"""The whole pipeline as one flow: download to sample. Running it again does only what is missing."""

from typing import Any, NamedTuple

from prefect import flow

from sana.artifact import Artifact
from sana.pipeline import graph
from tasks.bucket import bucket
from tasks.download import download
from tasks.encode_captions import encode_captions
from tasks.encode_latents import encode_latents
from tasks.evaluate import evaluate
from tasks.probe import probe
from tasks.sample import sample
from tasks.stage import PipelineRun, open_run, stage_task
from tasks.train import train

_OWN = (download, probe, bucket, encode_captions, encode_latents, train, evaluate, sample)
TASKS = {name: stage_task(name) for name in graph.STAGES} | {task.name: task for task in _OWN}


class Result(NamedTuple):
    """How one stage ended: `state` is Cached or Completed."""

    stage: str
    state: str
    artifact: Artifact


@flow(name="sana-video", persist_result=False)
def sana_pipeline(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    until: str | None = None,
    force: list[str] | None = None,
) -> list[Result]:
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
) -> list[Result]:
    """Call the task of each stage of the config in order, each with the artifacts that provide the tables it reads.

    Raises:
        ConfigError: the config is wrong, or it has no such stage.
    """
    run = open_run(config, overrides or (), root, force or ())
    names = graph.until(run.context.config, until)
    for name in force or ():
        graph.until(run.context.config, name)
    with run:
        return _compose(run, names)


def _compose(run: PipelineRun, names: tuple[str, ...]) -> list[Result]:
    done: dict[str, Result] = {}
    for name in names:
        inputs = graph.inputs_of(run.context.config, name, {above: done[above].artifact for above in done})
        # directly, not submitted: the kernel ties a worker's life to the thread that starts it
        state = TASKS[name](run, inputs, return_state=True)
        artifact: Any = state.result()
        done[name] = Result(name, state.name or "", artifact)
    return list(done.values())
