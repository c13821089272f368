"""The task of stage probe: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import probe as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def probe(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Open every new video once."""
    return run_stage(stage, run, inputs)
