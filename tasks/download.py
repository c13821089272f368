"""The task of stage download: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import download as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def download(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """List the sources and give every clip an id."""
    return run_stage(stage, run, inputs)
