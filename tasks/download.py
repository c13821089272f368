"""The task of stage download: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from sana.artifact import Artifact
from sana.stages import download as stage
from tasks.stage import RETRIES, RETRY_DELAYS_S, PipelineRun, run_stage, worth_a_retry


@task(
    name=stage.NAME,
    cache_policy=NO_CACHE,  # storage knows what is done; Prefect's cache cannot
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=worth_a_retry,
)
def download(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """List the sources and give every clip an id."""
    return run_stage(stage, run, inputs)
