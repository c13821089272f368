"""The tensors of a checkpoint: written, checked and read back. No pickle: safetensors files only."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana.artifact import FileInfo, digest_of
from sana.data.shards.shard import tensor_digest
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

PARTS = ("weights", "ema", "optimizer")  # one file each
Tensors = Mapping[str, Tensor]

_READ_BYTES = 2**22


def save(
    store: Store,
    trajectory: str,
    *,
    step: int,
    attempt: str,
    parts: Mapping[str, Tensors],
    segments: Sequence[MetricsSegment],
    cursor: DataPosition,
    seed: int,
    snapshot: Mapping[str, Mapping[str, str]],
    staging: Path,
) -> Checkpoint:
    """Write each of PARTS to the local folder `staging`, upload it, and commit."""
    files = {}
    staging.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        name = f"{part}.safetensors"
        key, path = f"{folder_of(trajectory)}/step_{step:08d}/{attempt}/{name}", staging / name
        save_file({name: tensor.detach().contiguous() for name, tensor in parts[part].items()}, path)
        files[name] = FileInfo(key, path.stat().st_size, file_digest(path))
        store.put_file_if_absent(key, path)
        path.unlink()
    now = round(time.time(), 3)
    return commit(
        store, Checkpoint(trajectory, step, attempt, files, tuple(segments), cursor, seed, snapshot, created_at=now)
    )


def load(store: Store, checkpoint: Checkpoint, part: str, *, staging: Path) -> dict[str, Tensor]:
    """Read one of PARTS to the CPU and check its digest; a remote file is fetched to `staging`.

    Raises:
        DamagedCheckpointError: the file is missing or of another digest.
    """
    info = checkpoint.files[f"{part}.safetensors"]
    fetched = staging / f"{checkpoint.step}-{part}.safetensors"
    try:
        path = store.local_path(info.key)
        if path is None:
            store.fetch(info.key, fetched)
            path = fetched
        found = file_digest(path)
        if found != info.digest:
            raise DamagedCheckpointError(
                f"{store.uri(info.key)} has digest {found}, its index says {info.digest}: the file is damaged; "
                "run train again, which resumes from an older checkpoint"
            )
        return load_file(path)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{store.uri(info.key)} is gone though its index is there: {error}") from error
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{store.uri(info.key)} is no safetensors file: {error}") from error
    finally:
        fetched.unlink(missing_ok=True)


def load_weights(store: Store, trajectory: str, step: int, *, which: Literal["live", "ema"]) -> dict[str, Tensor]:
    """Read the live or the EMA weights of one checkpoint: float32, for `load_state_dict`.

    Raises:
        SanaError: there is no such checkpoint, or it is damaged.
    """
    part = {"live": "weights", "ema": "ema"}[which]
    with TemporaryDirectory(prefix="sana-weights-") as staging:
        return load(store, read_checkpoint(store, trajectory, step), part, staging=Path(staging))


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
