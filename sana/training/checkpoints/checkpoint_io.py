"""The tensors of a checkpoint: written, checked and read back. No pickle: safetensors files only.

Every rank writes the tensors that it owns as files of its own: `weights.safetensors`, or of two ranks
`weights-00001-of-00002.safetensors` and so on. Any number of ranks reads them.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import xxhash
from torch import Tensor

from sana.artifact import FileInfo, digest_of
from sana.facts import ComputeSettings
from sana.store import Store
from sana.training.checkpoints.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    DataPosition,
    MetricsSegment,
    commit,
    folder_of,
    read_checkpoint,
)
from sana.training.checkpoints.ownership import file_name
from sana.training.checkpoints.tensor_file import Tensors, file_blocks, file_bytes, hashed, read_file, tensors_digests
from sana.training.regularizers.projector import without_projector

_RUN_AGAIN = (
    "run train again, which resumes from an older checkpoint (one that had finished: first sana verify CONFIG --deep "
    "--invalidate)"
)

PARTS = ("weights", "ema", "optimizer")
OPTIONAL_PARTS = ("ledger",)  # checkpoints of older versions have none


def write_parts(
    store: Store, folder: str, parts: Mapping[str, Tensors], *, rank: int, num_ranks: int, staging: Path
) -> dict[str, FileInfo]:
    """Store a rank's tensors below the key `folder`, one file a part, hashed on the way; returns the files by name.

    `staging` is a local folder, which a root on S3 needs.
    """
    files = {}
    for part, tensors in parts.items():
        if not tensors and num_ranks > 1:  # fewer tensors than ranks
            continue
        name, digest = file_name(part, rank, num_ranks), xxhash.xxh3_128()
        key = f"{folder}/{name}"
        blocks = hashed(file_blocks(tensors), digest.update)
        # False: a try of this very attempt got through though its answer was lost; an object is there whole or not
        store.put_blocks_if_absent(key, blocks, staging=staging)
        deque(blocks, maxlen=0)  # what is left to hash
        files[name] = FileInfo(key, file_bytes(tensors), digest.hexdigest())
    return files


def attempt_folder(trajectory: str, step: int, attempt: str) -> str:
    """Return the key of the folder of a checkpoint's files."""
    return f"{folder_of(trajectory)}/step_{step:08d}/{attempt}"


def save(
    store: Store,
    trajectory: str,
    *,
    step: int,
    attempt: str,
    files: Mapping[str, FileInfo],
    segments: Sequence[MetricsSegment],
    cursor: DataPosition,
    seed: int,
    snapshot: Mapping[str, Mapping[str, str]],
    optimizer_steps_before: int = 0,
    compute: ComputeSettings | None = None,
) -> Checkpoint:
    """Commit a checkpoint whose files are stored."""
    now = round(time.time(), 3)
    made = Checkpoint(trajectory, step, attempt, files, tuple(segments), cursor, seed, snapshot, created_at=now)
    return commit(store, replace(made, optimizer_steps_before=optimizer_steps_before, compute=compute))


def files_of(checkpoint: Checkpoint, part: str) -> dict[str, FileInfo]:
    """Return the files of one of the parts, by name, in order; none where an optional part is not there."""
    names = sorted(checkpoint.files)
    return {name: checkpoint.files[name] for name in names if name.split(".")[0].split("-")[0] == part}


def load(
    store: Store, checkpoint: Checkpoint, part: str, *, on_bytes: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """Read one of the parts to the CPU, whichever ranks wrote it, and check its digests on the way.

    `on_bytes` is told how many bytes each block had.

    Raises:
        DamagedCheckpointError: a file is missing, of another size or of another digest.
    """
    files = files_of(checkpoint, part)
    if not files:
        raise DamagedCheckpointError(f"{store.uri(checkpoint.key)} names no file of {part}")
    tensors: dict[str, Tensor] = {}
    for info in files.values():
        tensors |= _load_file(store, info, on_bytes)
    return tensors


def _load_file(store: Store, info: FileInfo, on_bytes: Callable[[int], None] | None) -> dict[str, Tensor]:
    uri = store.uri(info.key)
    hint = f"the file is damaged; {_RUN_AGAIN}"
    try:
        num_bytes = store.size(info.key)
        if num_bytes != info.num_bytes:
            raise DamagedCheckpointError(f"{uri} has {num_bytes} bytes, its index says {info.num_bytes}: {hint}")
        tensors, found = read_file(store, info.key, num_bytes, on_bytes=on_bytes)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{uri} is gone though its index is there; {_RUN_AGAIN}") from error
    except ValueError as error:
        raise DamagedCheckpointError(f"{uri} is no safetensors file: {error}; {hint}") from error
    if found != info.digest:
        raise DamagedCheckpointError(f"{uri} has digest {found}, its index says {info.digest}: {hint}")
    return tensors


def load_weights(store: Store, trajectory: str, step: int, *, which: Literal["live", "ema"]) -> dict[str, Tensor]:
    """Read the live or the EMA weights of one checkpoint: float32, live ones of `weights_dtype`.

    They are what a trainable loads: what only training needs, a projector, is left out.

    Raises:
        SanaError: there is no such checkpoint, or it is damaged.
    """
    part = {"live": "weights", "ema": "ema"}[which]
    return without_projector(load(store, read_checkpoint(store, trajectory, step), part))


def weights_digest(tensors: Tensors) -> str:
    """Return a digest of named tensors: names, shapes, dtypes and values, in no particular order."""
    digests = tensors_digests(tensors)
    return digest_of({name: [list(t.shape), str(t.dtype), digests[name]] for name, t in tensors.items()})
