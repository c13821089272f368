"""How a training came about: its attempts, where each took over, what was skipped or jumped, and the time it took."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sana import metrics as m
from sana.facts import ComputeSettings
from sana.report.charts import StepMark
from sana.report.training.numbers import Numbers
from sana.training.checkpoints.checkpoint import Checkpoint

_MAX_SHOWN = 200  # spikes and skipped steps that are listed


@dataclass(frozen=True)
class Attempt:
    """Steps that one process trained, both included, as the metrics that were committed have it.

    `train_s`: of these steps; `other_s`: evaluations and validations between them.
    """

    name: str
    first: int
    last: int
    train_s: float = 0.0
    other_s: float = 0.0
    compute: ComputeSettings | None = None  # None: none of its checkpoints is left


@dataclass(frozen=True)
class Trouble:
    """Steps that were skipped, and loss spikes with how far they are above their level: the first of so many."""

    num_skipped: int
    skipped: Sequence[int]
    num_spikes: int
    spikes: Sequence[tuple[int, float]]
    failed_validations: Sequence[int]


def attempts(written: Iterable[tuple[str, int, int]], kept: Iterable[Checkpoint], numbers: Numbers) -> list[Attempt]:
    """Return the attempts in order, from (attempt, first step, last step) of each segment of metrics."""
    found: list[Attempt] = []
    for name, first, last in written:
        if found and found[-1].name == name:
            found[-1] = replace(found[-1], last=last)
        else:
            found.append(Attempt(name, first, last))
    compute = {checkpoint.attempt: checkpoint.compute for checkpoint in kept}
    seconds = [numbers.seconds.get(one.name, (0.0, 0.0)) for one in found]
    return [
        replace(one, train_s=train_s, other_s=other_s, compute=compute.get(one.name))
        for one, (train_s, other_s) in zip(found, seconds, strict=True)
    ]


def trouble(numbers: Numbers) -> Trouble:
    """Return what went wrong on the way."""
    skipped, spikes = numbers.curve(m.SKIPPED_STEPS), numbers.curve(m.LOSS_SPIKE)
    more = np.flatnonzero(np.diff(skipped.values, prepend=0.0) > 0)
    failed = numbers.curve(m.VALIDATION_FAILED)
    return Trouble(
        num_skipped=int(skipped.values.max()) if len(skipped.values) else 0,
        skipped=[int(step) for step in skipped.steps[more][:_MAX_SHOWN]],
        num_spikes=len(spikes.values),
        spikes=[(int(s), float(v)) for s, v in zip(spikes.steps, spikes.values, strict=True)][:_MAX_SHOWN],
        failed_validations=[int(step) for step in failed.steps[failed.values > 0][:_MAX_SHOWN]],
    )


def marks(steps: Sequence[int], found: Sequence[Attempt], wrong: Trouble, best_step: int | None) -> list[StepMark]:
    """Return what is marked on the chart of the loss: checkpoints that are kept, resumes, spikes, skipped steps."""
    marked = [StepMark(step, "checkpoint kept") for step in steps]
    marked += [
        StepMark(one.first - 1, "resumed", f"attempt {place + 2} from step {one.first - 1}", "across")
        for place, one in enumerate(found[1:])
    ]
    marked += [StepMark(step, "loss spike", f"spike at {step}: {above:.3g}", "trouble") for step, above in wrong.spikes]
    marked += [StepMark(step, "skipped step", "", "trouble") for step in wrong.skipped]
    if best_step is not None:
        marked.append(StepMark(best_step, "lowest eval loss", "", "across"))
    return marked
