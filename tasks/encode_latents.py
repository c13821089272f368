"""The task of stage encode_latents: how often it is tried, how long it may take."""

from collections.abc import Mapping

from prefect import State, runtime, task

from sana.artifact import Artifact, Recipe
from sana.context import Context
from sana.stages import encode_latents as stage
from tasks.remote_workers import SharedRun, fan_out
from tasks.stage import POLICY, PipelineRun, run_stage


class _SharedOut:
    """The stage, before which runs of a deployment on other machines do what they can of its work."""

    NAME = stage.NAME

    def recipe(self, context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
        return stage.recipe(context, inputs)

    def run(self, context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
        resources = context.config.encode_latents.resources
        if resources.remote_workers:
            given = runtime.flow_run.parameters
            shared = SharedRun(given["config"], given.get("overrides"), given.get("root"), context.salt)
            fan_out(
                resources.worker_deployment,
                resources.remote_workers,
                shared,
                lambda: stage.remaining(context, inputs),
                context.report,
            )
        return stage.run(context, inputs)


@task(name=stage.NAME, **POLICY)
def encode_latents(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Encode every new clip window."""
    return run_stage(_SharedOut(), run, inputs)
