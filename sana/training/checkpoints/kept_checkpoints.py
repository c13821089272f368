"""When a checkpoint is due, and which of them stay."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence

from sana.config.training.resources import TrainResources
from sana.config.training.train import TrainConfig
from sana.store import Store
from sana.training.checkpoints.checkpoint import checkpoint_steps, remove_checkpoint
from sana.training.parallel.distributed import StopFlag

_log = logging.getLogger(__name__)


class CheckpointClock:
    """Says when a checkpoint is due: by steps, or by the clock of rank 0, on which all ranks agree.

    `is_due` is collective where `checkpoint_every_minutes` is set.
    """

    def __init__(self, config: TrainConfig, *, rank: int, num_ranks: int) -> None:
        resources = config.resources
        self._resources, self._rank, self._early_stopping = resources, rank, config.early_stopping
        self._flag = StopFlag(num_ranks) if resources.checkpoint_every_minutes else None
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether the state after this many steps is to be saved: the same on all ranks."""
        by_minutes = self._minutes_are_over()
        resources = self._resources
        periods = [resources.checkpoint_every, resources.milestone_every]
        if resources.keep_best_checkpoints:  # what was evaluated can be kept only if it is saved
            periods.append(resources.eval_every)
        if self._early_stopping is not None:
            periods.append(self._early_stopping.every)
        due = by_minutes or any(every > 0 and step % every == 0 for every in periods)
        if due:
            self._last = time.monotonic()
        return due

    def _minutes_are_over(self) -> bool:
        if self._flag is None:
            return False
        minutes = (time.monotonic() - self._last) / 60
        if self._rank == 0 and minutes >= self._resources.checkpoint_every_minutes:
            self._flag.request()
        over = self._flag.agreed()
        self._flag.clear()
        return over


def kept_steps(
    steps: Sequence[int], resources: TrainResources, *, eval_losses: Mapping[int, float], keep_steps: Collection[int]
) -> set[int]:
    """Return which of these checkpoints stay: the newest, those of the lowest eval loss, milestones, `keep_steps`."""
    kept = {*sorted(steps)[-resources.max_checkpoints :], *keep_steps}
    measured = sorted((eval_losses[step], -step) for step in steps if step in eval_losses)
    kept |= {-step for _, step in measured[: resources.keep_best_checkpoints]}
    if resources.milestone_every:
        kept |= {step for step in steps if step % resources.milestone_every == 0}
    return kept & set(steps)


def prune(
    store: Store,
    trajectory: str,
    resources: TrainResources,
    *,
    saved_step: int,
    eval_losses: Mapping[int, float],
    keep_steps: Collection[int],
) -> None:
    """Remove all complete checkpoints but those that stay, once that of `saved_step` is committed.

    Those of later steps are of a run with more steps on this trajectory, and are left to it.
    """
    steps = [step for step in checkpoint_steps(store, trajectory) if step <= saved_step]
    kept = kept_steps(steps, resources, eval_losses=eval_losses, keep_steps=keep_steps)
    for step in steps:
        if step not in kept:
            _log.info("removing the checkpoint of step %d: %s are kept", step, sorted(kept))
            remove_checkpoint(store, trajectory, step)
