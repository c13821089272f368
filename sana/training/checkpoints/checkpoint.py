"""Checkpoints in the store: listing, reading, committing and removing them. No torch here.

    train/<trajectory>/checkpoints/step_00000030/index.json            created last: it commits, and names the attempt
    train/<trajectory>/checkpoints/step_00000030/<attempt>/weights.safetensors, ema.safetensors, optimizer.safetensors
                                                                       of two ranks: weights-00001-of-00002.safetensors
    train/<trajectory>/metrics/<from>-<to>-<attempt>.jsonl             rows of steps from..to, immutable

Learning rate, EMA decay, shuffling and every random number are functions of the step, so they need no state.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from sana.artifact import FileInfo
from sana.errors import SanaError
from sana.facts import ComputeSettings
from sana.record import DamagedRecordError, Record
from sana.store import Store

_log = logging.getLogger(__name__)
_OTHER_FOLDERS = ("history", "pool")  # below train/, beside those of trainings


class DamagedCheckpointError(SanaError):
    """A file of a checkpoint is missing or is not what its index says."""


class NothingToResumeError(SanaError):
    """Every checkpoint of a run that was to resume was damaged, and is removed."""


@dataclass(frozen=True)
class MetricsSegment(Record):
    """Metrics rows of steps `first` to `last`, both included, as one immutable object."""

    key: str
    first: int
    last: int
    num_bytes: int


@dataclass(frozen=True)
class DataPosition(Record):
    """The position in the data, over all ranks: optimizer steps done, the epoch, and the batches done in it."""

    step: int
    epoch: int
    position: int


@dataclass(frozen=True)
class Checkpoint(Record):
    """The content of one index.json. `segments` are cumulative: all metrics of the trajectory up to this step.

    `snapshot` maps the artifacts that training reads to their content digests.
    """

    trajectory: str
    step: int  # optimizer steps done
    attempt: str
    files: Mapping[str, FileInfo]  # "weights.safetensors": ..., digests are xxh3-128
    segments: tuple[MetricsSegment, ...]
    cursor: DataPosition
    seed: int
    snapshot: Mapping[str, Mapping[str, str]]
    created_at: float
    optimizer_steps_before: int = 0  # that the optimizer had taken in the run that init_optimizer took it from
    compute: ComputeSettings | None = None  # of the steps since the checkpoint before; None: an older version's

    @property
    def key(self) -> str:
        """The key of the index, which commits it."""
        return index_key(self.trajectory, self.step)


def folder_of(trajectory: str) -> str:
    """Return the folder of a trajectory's checkpoints, relative to the root."""
    return f"train/{trajectory}/checkpoints"


def index_key(trajectory: str, step: int) -> str:
    """Return the key of a checkpoint's index, which is created last."""
    return f"{folder_of(trajectory)}/step_{step:08d}/index.json"


def checkpoint_steps(store: Store, trajectory: str) -> list[int]:
    """Return the steps that have a complete checkpoint, in order."""
    names = store.list_dirs(folder_of(trajectory))
    steps = [int(name.removeprefix("step_")) for name in names if name.removeprefix("step_").isdigit()]
    return [step for step in sorted(steps) if store.exists(index_key(trajectory, step))]


def training_folders(store: Store) -> list[str]:
    """Return the names of the folders of trainings: trajectories, and fingerprints of those that are finished."""
    return [name for name in store.list_dirs("train") if name not in _OTHER_FOLDERS]


def newest_checkpoint(store: Store, trajectory: str, *, at_most: int | None = None) -> Checkpoint | None:
    """Return the newest complete checkpoint, of at most this many steps, or None. Its files are not checked.

    One whose index is damaged is passed over: training removes it when it resumes.
    """
    steps = checkpoint_steps(store, trajectory)
    for step in reversed([step for step in steps if at_most is None or step <= at_most]):
        try:
            return read_checkpoint(store, trajectory, step)
        except DamagedCheckpointError as error:
            _log.warning("the checkpoint of step %d is passed over: %s", step, error)
    return None


def read_checkpoint(store: Store, trajectory: str, step: int) -> Checkpoint:
    """Return the checkpoint of exactly this step.

    Raises:
        DamagedCheckpointError: its index is damaged.
        SanaError: there is none, or it is of another version of this software.
    """
    key = index_key(trajectory, step)
    try:
        return Checkpoint.from_json(store.read(key), where=store.uri(key), repair_hint="run train again")
    except FileNotFoundError as error:
        found = checkpoint_steps(store, trajectory)
        raise SanaError(
            f"there is no checkpoint of step {step} at {store.uri(key)} (there are {found or 'none'}): run train again"
        ) from error
    except DamagedRecordError as error:
        raise DamagedCheckpointError(str(error)) from error


def commit(store: Store, checkpoint: Checkpoint) -> Checkpoint:
    """Create the index of a checkpoint whose files are stored; returns the committed checkpoint.

    If another attempt has committed this step, it has the same bytes: it stays, and these files are deleted.
    """
    store.put_if_absent(checkpoint.key, checkpoint.to_json(sort_keys=True))
    committed = read_checkpoint(store, checkpoint.trajectory, checkpoint.step)
    if committed.attempt != checkpoint.attempt:
        _log.warning("step %d was saved by attempt %s before; ours is dropped", committed.step, committed.attempt)
        for info in checkpoint.files.values():
            store.delete(info.key)
    return committed


def save_segment(store: Store, trajectory: str, *, first: int, last: int, attempt: str, data: bytes) -> MetricsSegment:
    """Store the metrics rows of steps `first` to `last` as one immutable object."""
    key = f"train/{trajectory}/metrics/{first:08d}-{last:08d}-{attempt}.jsonl"
    store.put_if_absent(key, data)
    return MetricsSegment(key, first, last, len(data))


def read_metrics(store: Store, checkpoint: Checkpoint) -> bytes:
    """Return all metrics up to a checkpoint: JSON lines from the first step on.

    Raises:
        DamagedCheckpointError: a segment is missing or truncated.
    """
    return b"".join(_read_segment(store, segment) for segment in checkpoint.segments)


def read_whole_metrics(store: Store, checkpoint: Checkpoint) -> tuple[bytes, tuple[MetricsSegment, ...]]:
    """Return the metrics that are left of a checkpoint's, and their segments: weights are worth more than their rows.

    A segment that is missing or damaged is left out, with a warning.
    """
    data, whole = [], []
    for segment in checkpoint.segments:
        try:
            data.append(_read_segment(store, segment))
        except DamagedCheckpointError as error:
            rows = f"steps {segment.first} to {segment.last}"
            _log.warning("the metrics of %s are lost, training goes on without them: %s", rows, error)
        else:
            whole.append(segment)
    return b"".join(data), tuple(whole)


def _read_segment(store: Store, segment: MetricsSegment) -> bytes:
    try:
        data = store.read(segment.key)
        for line in data.splitlines():
            json.loads(line)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{store.uri(segment.key)} is gone") from error
    except ValueError as error:
        raise DamagedCheckpointError(f"{store.uri(segment.key)} is no JSON: {error}") from error
    if len(data) != segment.num_bytes:
        raise DamagedCheckpointError(f"{store.uri(segment.key)} has {len(data)} bytes, not {segment.num_bytes}")
    return data


def remove_checkpoint(store: Store, trajectory: str, step: int) -> None:
    """Remove a checkpoint: its index first, so that a half removed one is never read."""
    store.delete(index_key(trajectory, step))
    for key, _ in store.list(f"{folder_of(trajectory)}/step_{step:08d}"):
        store.delete(key)
    folder = store.local_path(f"{folder_of(trajectory)}/step_{step:08d}")
    if folder is not None and folder.is_dir():
        for empty in [*folder.iterdir(), folder]:
            with suppress(OSError):  # another attempt writes this step again
                empty.rmdir()


def remove_unfinished(store: Store, trajectory: str) -> None:
    """Remove the files of unfinished checkpoints, and those whose index is damaged: their steps can be saved again.

    Only for the one trainer that holds the lease.
    """
    in_use: set[str] = set()
    for step in checkpoint_steps(store, trajectory):
        try:
            in_use |= {info.key for info in read_checkpoint(store, trajectory, step).files.values()}
        except DamagedCheckpointError as error:
            _log.warning("checkpoint of step %d is removed: %s", step, error)
            remove_checkpoint(store, trajectory, step)
    for key, _ in store.list(folder_of(trajectory)):
        if key not in in_use and not key.endswith("/index.json"):
            store.delete(key)
