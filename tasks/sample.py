"""The task of stage sample: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import sample as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def sample(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Make one video per prompt."""
    return run_stage(stage, run, inputs)
