"""The checkpoints and metrics of one trajectory: what a run saves, behind training, and resumes from."""

import logging
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from torch import Tensor

from sana.artifact import FileInfo
from sana.config.training.train import TrainConfig
from sana.data.loading.epoch import Cursor
from sana.facts import ComputeSettings
from sana.metrics import EVAL_LOSS_EMA, EVAL_LOSS_LIVE, STEP, Row, parse_rows
from sana.progress import CheckpointSaved
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.checkpoints import checkpoint, checkpoint_io
from sana.training.checkpoints.behind import Behind
from sana.training.checkpoints.host_copy import StateCopy
from sana.training.checkpoints.kept_checkpoints import CheckpointClock, prune
from sana.training.checkpoints.ownership import RankExchange, owners
from sana.training.checkpoints.retries import with_retries
from sana.training.metrics import MetricsWriter
from sana.training.parallel.parallel import Parallel, Parts
from sana.training.state import TrainState
from sana.wording import at_rate, in_units

_log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """Where a run resumes."""

    step: int = 0  # optimizer steps done
    evaluated_step: int = -1  # the last step with an eval loss; -1: none
    parts: Parts | None = None  # on the CPU; None before the first step
    optimizer_steps_before: int = 0  # see Checkpoint
    loaded: str = ""  # what was read of each part, in how long


class CheckpointManager:
    """Saves and restores the checkpoints of one trajectory, `key`, and writes its metrics. One on each rank.

    A trajectory is the steps that one set of settings and one data set determine, whatever `max_steps`. `folder` is
    local: it holds metrics.jsonl, and files on their way to S3. `snapshot` maps each artifact that training reads to
    its content digests. `keep_steps` are checkpoints that committed artifacts refer to. `check` raises when another
    trainer has taken over the lease.

    A checkpoint is copied to the host's memory, and written while training goes on; the next one waits for it. As a
    context it waits for the last one at its end, whatever ends it.
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
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.store, self.key = store, key
        self.folder, self.staging = folder, folder / "staging"
        self.config, self.snapshot, self.keep_steps = config, snapshot, keep_steps
        self.check = check
        self.rank, self.num_ranks = rank, num_ranks
        self.clock = CheckpointClock(config, rank=rank, num_ranks=num_ranks)
        self.compute: ComputeSettings | None = None  # set by the trainer, once it knows
        self.newest: checkpoint.Checkpoint | None = None  # on rank 0
        self.optimizer_steps_before = 0  # see Checkpoint
        self.saved_step = 0  # the last step that was saved, or is being saved: the same on all ranks
        self.best_step: int | None = None  # of early stopping: its checkpoint stays
        self.metrics: MetricsWriter  # set by restore, which is called first
        self._exchange = RankExchange(rank, num_ranks)
        self.attempt = self._exchange.from_main(uuid.uuid4().hex[:12])
        self._eval_losses: dict[int, float] = {}
        self._saved: deque[CheckpointSaved] = deque()  # not yet told; filled by the thread that commits
        self._copy = StateCopy()
        self._behind = Behind("checkpoint")

    def restore(self, on_bytes: Callable[[int, int], None] | None = None) -> ResumePoint:
        """Read the newest valid checkpoint of at most max_steps, if there is one. Rank 0 only.

        A damaged one is removed, with a warning, so that its step can be saved again. Files of unfinished checkpoints
        are removed. The local metrics file is replaced by the checkpoint's metrics. `on_bytes(done, total)` follows the
        reading.
        """
        history, resume = b"", ResumePoint()
        for step in reversed(
            [s for s in checkpoint.checkpoint_steps(self.store, self.key) if s <= self.config.max_steps]
        ):
            try:
                found, started = checkpoint.read_checkpoint(self.store, self.key, step), time.perf_counter()
                # all of it is read before any of it is used
                parts = self._read(found, on_bytes)
            except checkpoint.DamagedCheckpointError as error:
                _log.warning("checkpoint of step %d is removed, an older one is used: %s", step, error)
                checkpoint.remove_checkpoint(self.store, self.key, step)
                continue
            history, segments = checkpoint.read_whole_metrics(self.store, found)
            found = replace(found, segments=segments)
            loaded = _loaded(parts, time.perf_counter() - started)
            self.newest = found
            before = found.optimizer_steps_before
            resume = ResumePoint(step, parts=parts, optimizer_steps_before=before, loaded=loaded)
            break
        shutil.rmtree(self.staging, ignore_errors=True)
        checkpoint.remove_unfinished(self.store, self.key)
        self.metrics = MetricsWriter(self.folder / "metrics.jsonl", history)
        rows = parse_rows(history)
        self._note_eval_losses(rows)
        evaluated = max((int(row[STEP]) for row in rows if EVAL_LOSS_LIVE in row), default=-1)
        return resume._replace(evaluated_step=evaluated)

    def _read(self, found: checkpoint.Checkpoint, on_bytes: Callable[[int, int], None] | None) -> Parts:
        total, done = sum(info.num_bytes for info in found.files.values()), 0

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            if on_bytes is not None:
                on_bytes(done, total)

        optional = [part for part in checkpoint_io.OPTIONAL_PARTS if checkpoint_io.files_of(found, part)]
        return {
            part: checkpoint_io.load(self.store, found, part, on_bytes=count)
            for part in (*checkpoint_io.PARTS, *optional)
        }

    def resume(self, step: int, state: TrainState) -> None:
        """Go on after this many steps. The memory for copies is allocated behind the first steps."""
        self.saved_step = step
        if self.config.resources.checkpoint_in_background:
            mine = {
                f"{part}/{name}": tensors[name]
                for part, tensors in state.parts().items()
                for name, owner in owners(tensors, self.num_ranks).items()
                if owner == self.rank
            }
            self._behind.start(partial(self._copy.allocate, mine))

    def has_step(self, step: int) -> bool:
        """Return whether there is a complete checkpoint of this step."""
        return self.store.exists(checkpoint.index_key(self.key, step))

    def write(self, rows: Sequence[Row]) -> None:
        """Append metrics rows; the next checkpoint commits them. Rank 0 only."""
        self.check()
        self._note_eval_losses(rows)
        self.metrics.write(rows)

    def raise_error(self) -> None:
        """Raise what the checkpoint that is being written failed with, if it did; never waits."""
        self._behind.check()

    def save(
        self, state: TrainState, parallel: Parallel, cursor: Cursor, *, while_waiting: Callable[[], None] | None = None
    ) -> None:
        """Save the state as a checkpoint, unless its step has one. Collective.

        It is complete when the next one starts, or the context ends. `while_waiting` is called now and then while the
        one before is waited for.

        Raises:
            SanaError: the one before failed, or another trainer took over.
        """
        if self.saved_step == state.step:
            return
        self._behind.finish(while_waiting)
        self.check()
        self.saved_step = state.step
        background = self.config.resources.checkpoint_in_background
        parts: dict[str, dict[str, Tensor]] = {}
        for part, tensors in state.parts().items():
            parts[part] = {}
            owned = owners(tensors, self.num_ranks)
            for name, tensor in tensors.items():
                whole = parallel.gather_tensor(tensor, owned[name])
                if whole is not None:
                    parts[part][name] = self._copy.copy(f"{part}/{name}", whole) if background else whole
        self._copy.record()
        rows = self.metrics.cut_segment() if self.rank == 0 else b""
        work = partial(self._write, state.step, parts, rows, cursor)
        if background:
            self._behind.start(work)
        else:
            work()

    def take_saved(self) -> tuple[CheckpointSaved, ...]:
        """Return the checkpoints that were committed since the last call. Rank 0 only."""
        return tuple(self._saved.popleft() for _ in range(len(self._saved)))

    def finish(self, while_waiting: Callable[[], None] | None = None) -> None:
        """Wait for the checkpoint that is being written; raises what it failed with."""
        self._behind.finish(while_waiting)

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self._behind.settle()
        self._behind.close()

    def _write(self, step: int, parts: Parts, rows: bytes, cursor: Cursor) -> None:
        """Write this rank's tensors; rank 0 then commits the files of all ranks, and removes what is not kept."""
        folder = checkpoint_io.attempt_folder(self.key, step, self.attempt)
        mine: Mapping[str, FileInfo] | None = None
        try:
            self._copy.wait()
            write = partial(checkpoint_io.write_parts, self.store, folder, parts, staging=self.staging)
            work = partial(write, rank=self.rank, num_ranks=self.num_ranks)
            mine = with_retries(work, what=f"the checkpoint of step {step} cannot be stored", check=self.check)
        finally:  # rank 0 must hear of a failure as well
            written = self._exchange.to_main(mine)
        if self.rank == 0:
            files: dict[str, FileInfo] = {}
            for rank, of_rank in enumerate(written):
                if of_rank is None:
                    # that rank's own exit code says whether to try again
                    raise StoreError(f"step {step} is not saved: rank {rank} failed to write its part and says why")
                files |= of_rank
            what = f"the checkpoint of step {step} cannot be committed"
            with_retries(partial(self._commit, step, files, rows, cursor), what=what, check=self.check)

    def _commit(self, step: int, files: Mapping[str, FileInfo], rows: bytes, cursor: Cursor) -> None:
        self.check()
        before = self.newest
        first = before.step + 1 if before else 0
        segment = checkpoint.save_segment(self.store, self.key, first=first, last=step, attempt=self.attempt, data=rows)
        epoch, position = cursor.at(step)
        saved = checkpoint_io.save(
            self.store,
            self.key,
            step=step,
            attempt=self.attempt,
            files=files,
            segments=[*(before.segments if before else ()), segment],
            cursor=checkpoint.DataPosition(step, epoch, position),
            seed=self.config.seed,
            snapshot=self.snapshot,
            optimizer_steps_before=self.optimizer_steps_before,
            compute=self.compute,
        )
        losses, resources = dict(self._eval_losses), self.config.resources
        best = () if self.best_step is None else (self.best_step,)
        keep_steps = (*self.keep_steps, *best)
        prune(self.store, self.key, resources, saved_step=step, eval_losses=losses, keep_steps=keep_steps)
        self.newest = saved
        self._saved.append(CheckpointSaved(step, saved.key))
        _log.info("saved the checkpoint of step %d: %s", step, self.store.uri(saved.key))

    def _note_eval_losses(self, rows: Sequence[Row]) -> None:
        self._eval_losses |= {int(row[STEP]): row[EVAL_LOSS_EMA] for row in rows if EVAL_LOSS_EMA in row}


def _loaded(parts: Parts, seconds: float) -> str:
    sizes = {part: sum(tensor.nbytes for tensor in tensors.values()) for part, tensors in parts.items()}
    each = ", ".join(f"{part} {in_units(size)}" for part, size in sizes.items())
    return f"{at_rate(sum(sizes.values()), seconds)} ({each})"
