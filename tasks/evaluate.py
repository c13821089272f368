"""The task of stage evaluate: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import evaluate as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def evaluate(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Measure the eval loss on the fixed grid."""
    return run_stage(stage, run, inputs)
