"""What is compared by name: what `sana.runs.naming` finds, and perhaps `@STEP` of a checkpoint."""

import re

from sana.comparison.lineage import Lineage
from sana.comparison.subjects import Subject, Weights, checkpoint_subject, trained_subject
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.runs.naming import Named, find_named
from sana.training.checkpoints.checkpoint import checkpoint_steps

_AT_STEP = re.compile(r"(.*)@([0-9]{1,8})", re.DOTALL)


def find_subject(name: str, lineage: Lineage, weights: Weights) -> Subject:
    """Return the training, or the checkpoint of one, that a name means.

    Raises:
        SanaError: there is no such training or step, or several begin so; names the nearest.
    """
    match = _AT_STEP.fullmatch(name)
    named = find_named(lineage, match[1] if match else name)
    named.require_training()
    if match is None and named.trained is not None:
        return trained_subject(name, lineage, named.trained, weights)
    return _at_step(name, lineage, named, int(match[2]) if match else None, weights)


def _at_step(name: str, lineage: Lineage, named: Named, step: int | None, weights: Weights) -> Subject:
    """Return a checkpoint: of this step, or the last that there is, kept as a checkpoint or as a training's end."""
    ended = [TrainFacts.of(one) for one in lineage.all(TrainFacts.STAGE)]
    kept = checkpoint_steps(lineage.store, named.trajectory)
    steps = sorted({*kept, *(one.step for one in ended if one.trajectory == named.trajectory)})
    if step is None and not steps:
        raise SanaError(f"training {name} has no checkpoint yet; compare it when it has one")
    if step and step not in steps:
        raise SanaError(
            f"{name}: there is no checkpoint of step {step} (steps there: {', '.join(map(str, steps)) or 'none'}); "
            "name one of them, or 0 for the weights before training"
        )
    return checkpoint_subject(name, lineage, named.trajectory, steps[-1] if step is None else step, weights)
