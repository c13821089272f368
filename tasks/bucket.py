"""The task of stage bucket: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import bucket as stage
from tasks.stage import CHEAP_TIMEOUT_S, POLICY, PipelineRun, run_stage


@task(name=stage.NAME, timeout_seconds=CHEAP_TIMEOUT_S, **POLICY)
def bucket(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Give every clip a shape, a window and a split."""
    return run_stage(stage, run, inputs)
