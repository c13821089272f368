"""Checkpoints: all that makes the next step identical, in the store, complete when `index.json` is there.

    train/<trajectory>/checkpoints/step_00000030/index.json            created last, names the attempt
    train/<trajectory>/checkpoints/step_00000030/<attempt>/weights.safetensors, ema.safetensors, optimizer.safetensors
    train/<trajectory>/metrics/<from>-<to>-<attempt>.jsonl             rows of steps from..to, immutable

Learning rate, EMA decay, shuffling and every random number are functions of the step, so no state of theirs is kept.
"""

import json
import logging
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana.artifact import FileInfo, digest_of
from sana.data.shard import tensor_digest
from sana.errors import SanaError
from sana.store import Store

FORMAT = 1  # of index.json
PARTS = ("weights", "ema", "optimizer")
Tensors = Mapping[str, Tensor]

_READ_BYTES = 2**22
_log = logging.getLogger(__name__)


class DamagedCheckpoint(SanaError):
    """A file of a checkpoint is missing or is not what its index says."""


@dataclass(frozen=True)
class Segment:
    """Metrics rows of steps `first` to `last`, both included, as one immutable object."""

    key: str
    first: int
    last: int
    num_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """The content of one index.json. `segments` are cumulative: all metrics of the trajectory up to this step.

    `cursor` is {"step", "epoch", "position"}: where the data stands, over all ranks. `snapshot` maps the artifacts
    that were read to their content digests.
    """

    trajectory: str
    step: int  # optimizer steps done
    attempt: str
    files: Mapping[str, FileInfo]  # "weights.safetensors": ..., digests are xxh3-128
    segments: Sequence[Segment]
    cursor: Mapping[str, int]
    seed: int
    snapshot: Mapping[str, Mapping[str, str]]
    created_at: float

    @property
    def key(self) -> str:
        """The index, which commits it."""
        return index_key(self.trajectory, self.step)


def index_key(trajectory: str, step: int) -> str:
    return f"{_folder(trajectory)}/step_{step:08d}/index.json"


def _folder(trajectory: str) -> str:
    return f"train/{trajectory}/checkpoints"


def steps_of(store: Store, trajectory: str) -> list[int]:
    """Return the steps of which there is a complete checkpoint, in order."""
    names = store.list_dirs(_folder(trajectory))
    steps = [int(name.removeprefix("step_")) for name in names if name.removeprefix("step_").isdigit()]
    return [step for step in sorted(steps) if store.exists(index_key(trajectory, step))]


def newest(store: Store, trajectory: str, *, at_most: int) -> Checkpoint | None:
    """Return the newest complete checkpoint of at most this many steps, or None. Its files are not yet checked."""
    steps = [step for step in steps_of(store, trajectory) if step <= at_most]
    return at_step(store, trajectory, steps[-1]) if steps else None


def at_step(store: Store, trajectory: str, step: int) -> Checkpoint:
    """Return the checkpoint of exactly this step.

    Raises:
        SanaError: there is none, or its index cannot be read.
    """
    key = index_key(trajectory, step)
    try:
        record = json.loads(store.read(key))
    except FileNotFoundError as error:
        found = steps_of(store, trajectory)
        raise SanaError(
            f"there is no checkpoint of step {step} at {store.uri(key)} (there are {found or 'none'}): run train again"
        ) from error
    except ValueError as error:
        raise DamagedCheckpoint(f"{store.uri(key)} is not JSON ({error}); remove it and run train again") from error
    if record.pop("format", None) != FORMAT:
        raise SanaError(f"{store.uri(key)} was written by another version of this software; use that, or another root")
    record["files"] = {name: FileInfo(**info) for name, info in record["files"].items()}
    record["segments"] = [Segment(**segment) for segment in record["segments"]]
    return Checkpoint(**record)


def save(
    store: Store,
    trajectory: str,
    *,
    step: int,
    attempt: str,
    parts: Mapping[str, Tensors],
    segments: Sequence[Segment],
    facts: Mapping[str, Any],
    staging: Path,
) -> Checkpoint:
    """Write `parts` (name in PARTS -> tensors) to `staging`, upload them, and commit. `facts`: cursor, seed, snapshot.

    A checkpoint of this step that is there already holds the same bytes: it stays, and ours is dropped.
    """
    files = {}
    staging.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        name = f"{part}.safetensors"
        path = staging / name
        save_file({key: tensor.detach().contiguous() for key, tensor in parts[part].items()}, path)
        info = FileInfo(f"{_folder(trajectory)}/step_{step:08d}/{attempt}/{name}", path.stat().st_size, file_digest(path))
        store.put_file_if_absent(info.key, path)
        path.unlink()
        files[name] = info
    staging.rmdir()
    checkpoint = Checkpoint(
        trajectory, step, attempt, files, list(segments), **facts, created_at=round(time.time(), 3)
    )
    record = {"format": FORMAT, **asdict(checkpoint)}
    store.put_if_absent(checkpoint.key, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    committed = at_step(store, trajectory, step)  # ours, or that of somebody who was first
    if committed.attempt != attempt:
        _log.warning("step %d was committed by attempt %s already; ours is dropped", step, committed.attempt)
        for info in files.values():
            store.delete(info.key)
    return committed


def save_segment(store: Store, trajectory: str, *, first: int, last: int, attempt: str, data: bytes) -> Segment:
    """Store the metrics rows of steps `first` to `last` as one immutable object."""
    key = f"train/{trajectory}/metrics/{first:08d}-{last:08d}-{attempt}.jsonl"
    store.put_if_absent(key, data)
    return Segment(key, first, last, len(data))


def read_metrics(store: Store, checkpoint: Checkpoint) -> bytes:
    """Return the whole metrics history that a checkpoint commits: JSON lines from the first step on.

    Raises:
        DamagedCheckpoint: a segment is missing.
    """
    try:
        return b"".join(store.read(segment.key) for segment in checkpoint.segments)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"metrics that {store.uri(checkpoint.key)} names are gone: {error}") from error


def load(store: Store, checkpoint: Checkpoint, part: str, *, staging: Path) -> dict[str, Tensor]:
    """Read one part ("weights", "ema" or "optimizer") to the CPU, after its digest was checked.

    Raises:
        DamagedCheckpoint: the file is missing, of another size, or of another digest.
    """
    info = checkpoint.files[f"{part}.safetensors"]
    path = store.local_path(info.key)
    fetched = staging / f"{checkpoint.step}-{part}.safetensors"
    try:
        if path is None:
            store.fetch(info.key, fetched)
        source = fetched if path is None else path
        found = file_digest(source)
        if found != info.digest:
            raise DamagedCheckpoint(
                f"{store.uri(info.key)} has digest {found}, its index says {info.digest}: the file is damaged; "
                "remove that step's folder and run train again, which goes on from an older checkpoint"
            )
        return load_file(source)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{store.uri(info.key)} is missing though its index names it; run train again") from error
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{store.uri(info.key)} is no safetensors file: {error}; run train again") from error
    finally:
        fetched.unlink(missing_ok=True)


def withdraw(store: Store, trajectory: str, step: int) -> None:
    """Remove a checkpoint: its index first, so that what is left at any moment is not taken for one."""
    store.delete(index_key(trajectory, step))
    for key, _ in store.list(f"{_folder(trajectory)}/step_{step:08d}"):
        store.delete(key)


def prune(store: Store, trajectory: str, *, keep_last: int, keep_steps: Collection[int]) -> None:
    """Remove all complete checkpoints but the newest `keep_last` and those of `keep_steps`."""
    for step in steps_of(store, trajectory)[:-keep_last]:
        if step not in keep_steps:
            _log.info("removing the checkpoint of step %d: %d newer ones are kept", step, keep_last)
            withdraw(store, trajectory, step)


def sweep(store: Store, trajectory: str, staging: Path) -> None:
    """Remove what unfinished attempts left behind, here and in the store. Only for the one trainer that may write."""
    shutil.rmtree(staging, ignore_errors=True)
    committed = {step: at_step(store, trajectory, step) for step in steps_of(store, trajectory)}
    named = {info.key for checkpoint in committed.values() for info in checkpoint.files.values()}
    for key, _ in store.list(_folder(trajectory)):
        if key not in named and not key.endswith("/index.json"):
            store.delete(key)


def weights_digest(tensors: Tensors) -> str:
    """Return a digest of named tensors: names, shapes, dtypes and values, in no particular order."""
    return digest_of({name: [list(t.shape), str(t.dtype), tensor_digest(t)] for name, t in tensors.items()})


def file_digest(path: Path) -> str:
    """Return the xxh3-128 of a file, 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
