"""The checkpoints and metrics of one trajectory: what a run saves, and resumes from. Rank 0 only."""

import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sana.config.training.train import TrainConfig
from sana.data.loading.epoch import Cursor
from sana.store import Store
from sana.training.checkpoints import checkpoint, checkpoint_io
from sana.training.metrics import EVAL_LOSS_LIVE, STEP, MetricsWriter, Row, parse_rows
from sana.training.parallel.parallel import Parts
from sana.training.state import Snapshot

_log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """Where a run resumes."""

    step: int = 0  # optimizer steps done
    evaluated_step: int = -1  # the last step with an eval loss; -1: none
    parts: Parts | None = None  # on the CPU; None before the first step


class CheckpointManager:
    """Saves and restores the checkpoints of one trajectory, `key`, and writes its metrics.

    A trajectory is the steps that one set of settings and one data set determine, whatever `max_steps`. `folder` is
    local: it holds metrics.jsonl, and checkpoints while they are written. `snapshot` maps each artifact that training
    reads to its content digests. `keep_steps` are checkpoints that committed artifacts refer to. `check` raises when
    another trainer has taken over the lease.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        folder: Path,
        config: TrainConfig,
        snapshot: Mapping[str, Mapping[str, str]],
        keep_steps: Collection[int],
        check: Callable[[], None],
    ) -> None:
        self.store, self.key = store, key
        self.folder, self.staging = folder, folder / "staging"
        self.config, self.snapshot, self.keep_steps = config, snapshot, keep_steps
        self.check = check
        self.attempt = uuid.uuid4().hex[:12]
        self.newest: checkpoint.Checkpoint | None = None
        self.metrics: MetricsWriter  # set by restore, which is called first

    def restore(self) -> ResumePoint:
        """Read the newest valid checkpoint of at most max_steps, if there is one.

        A damaged one is removed, with a warning, so that its step can be saved again. Files of unfinished checkpoints
        are removed. The local metrics file is replaced by the checkpoint's metrics.
        """
        history, resume = b"", ResumePoint()
        for step in reversed(
            [s for s in checkpoint.checkpoint_steps(self.store, self.key) if s <= self.config.max_steps]
        ):
            try:
                found = checkpoint.read_checkpoint(self.store, self.key, step)
                # all of it is read before any of it is used
                parts = {
                    part: checkpoint_io.load(self.store, found, part, staging=self.staging)
                    for part in checkpoint_io.PARTS
                }
                history = checkpoint.read_metrics(self.store, found)
            except checkpoint.DamagedCheckpointError as error:
                _log.warning("checkpoint of step %d is removed, an older one is used: %s", step, error)
                checkpoint.remove_checkpoint(self.store, self.key, step)
                continue
            self.newest, resume = found, ResumePoint(step, parts=parts)
            break
        shutil.rmtree(self.staging, ignore_errors=True)
        checkpoint.remove_unfinished(self.store, self.key)
        self.metrics = MetricsWriter(self.folder / "metrics.jsonl", history)
        evaluated = max((int(row[STEP]) for row in parse_rows(history) if EVAL_LOSS_LIVE in row), default=-1)
        return resume._replace(evaluated_step=evaluated)

    def write(self, rows: Sequence[Row]) -> None:
        """Append metrics rows; the next checkpoint commits them."""
        self.check()
        self.metrics.write(rows)

    def save(self, state: Snapshot, cursor: Cursor) -> None:
        """Save the state as a checkpoint, unless its step has one, and remove those that are not kept."""
        before = self.newest
        if state.step == 0 or (before is not None and before.step == state.step):
            return
        self.check()
        segment = checkpoint.save_segment(
            self.store,
            self.key,
            first=before.step + 1 if before else 0,
            last=state.step,
            attempt=self.attempt,
            data=self.metrics.cut_segment(),
        )
        epoch, position = cursor.at(state.step)
        self.newest = checkpoint_io.save(
            self.store,
            self.key,
            step=state.step,
            attempt=self.attempt,
            parts=state.parts,
            segments=[*(before.segments if before else ()), segment],
            cursor=checkpoint.DataPosition(state.step, epoch, position),
            seed=self.config.seed,
            snapshot=self.snapshot,
            staging=self.staging,
        )
        _log.info("saved the checkpoint of step %d: %s", state.step, self.store.uri(self.newest.key))
        checkpoint.prune(
            self.store, self.key, max_checkpoints=self.config.resources.max_checkpoints, keep_steps=self.keep_steps
        )
