"""The task of stage encode_captions: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task

from sana.artifact import Artifact
from sana.stages import encode_captions as stage
from tasks.stage import POLICY, PipelineRun, run_stage


@task(name=stage.NAME, **POLICY)
def encode_captions(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Encode every new caption."""
    return run_stage(stage, run, inputs)
