"""The task of stage train: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import train as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def train(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Train, going on from the newest checkpoint."""
    return run_stage(stage, run, inputs)
