"""The videos of validation from a checkpoint, whoever trains it and wherever: beside the run, or after it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sana.artifact import Artifact, Recipe
from sana.context import Context
from sana.errors import SanaError
from sana.model.model_resolver import resolve_model, source_of
from sana.pipeline.plan import check_work_dir, inputs_of
from sana.runtime.command_specs import ValidateSpec
from sana.runtime.launcher import result_path
from sana.runtime.specs import CheckpointName
from sana.runtime.worker import run_worker
from sana.stages import train as stage
from sana.stages.bodies.initial_weights import find_initial_weights
from sana.training.checkpoints.checkpoint import checkpoint_steps
from sana.training.validation.record import ValidationRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validated:
    """A validation, and the training that its checkpoint is of."""

    record: ValidationRecord
    recipe: Recipe
    inputs: Mapping[str, Artifact]


def validate_checkpoint(context: Context, step: int | None, *, command: str = "sana run CONFIG") -> Validated:
    """Make the videos of `train.validation` from the checkpoint of a step, the newest for None; 0: before the first.

    One of the same settings that is there already is taken as it is; one that had failed is made. `command` would make
    what is missing.

    Raises:
        SanaError: there is no such checkpoint, or nothing that it was trained on.
    """
    check_work_dir(context.work_dir)
    inputs = inputs_of(context, stage.NAME, command=command)
    recipe = stage.recipe(context, inputs)
    trajectory = stage.trajectory_of(recipe)
    steps = checkpoint_steps(context.store, trajectory)
    if (step is None and not steps) or (step and step not in steps):
        there = ", ".join(map(str, steps)) or "none"
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise SanaError(
            f"{context.store.root} has {wanted} of this config (steps there: {there}); name one of them or 0, or "
            f"train: {command} --until train"
        )
    at = steps[-1] if step is None else step
    named = find_initial_weights(context)
    spec = ValidateSpec(
        model=source_of(resolve_model(context.config.model, work_dir=context.work_dir)),
        latents=inputs["latents"],
        captions=inputs["texts"],
        checkpoint=CheckpointName(trajectory, at),
        initial=named.weights if named else None,
    )
    job_path = run_worker(context, spec)
    return Validated(ValidationRecord.load(result_path(job_path), repair_hint="run again"), recipe, inputs)
