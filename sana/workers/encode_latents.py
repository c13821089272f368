"""Worker: decode, resize and encode the windows that are missing in the pool, and commit them part by part.

A bounded pipeline: threads decode ahead, across parts, and one writes behind, so that the VAE does not wait; a GPU is
given the next batch before the last one's result is fetched. In memory are at most `decode_threads` + 1 windows, a
batch (two on a GPU), and the latents of two shards, however long or many the clips are. Windows of one video are
neighbours, and decoded in one pass over it as far as a part and the threads' lanes go.
Several workers take parts of one todo without communicating: each its own first, then those of the others.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sana.data.schemas import LATENTS
from sana.data.shards.part_writer import PartWriter, Row
from sana.data.shards.shard import DTYPES
from sana.data.sources.source import open_sources
from sana.data.video.video import ClipRejected, to_pixels
from sana.data.video.windows_ahead import Decoded, Item, windows_ahead
from sana.errors import SanaError
from sana.model.compiled_vae import compile_encoder
from sana.model.device import out_of_memory_explained, provenance, resolve_device
from sana.model.transfers import HostCopy
from sana.model.vae import encode_latents, has_channels_last, load_vae
from sana.progress import REJECTED, Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.pool import Pool
from sana.runtime.specs import EncodeLatentsSpec
from sana.runtime.work_partition import WorkPartition

T = TypeVar("T")
Batch = tuple[list[Row], T] | None  # None: the end of a part


@out_of_memory_explained("encode_latents.tiling=true, or smaller buckets")
def encode(job: Job[EncodeLatentsSpec]) -> None:
    """Encode this worker's parts of the job's windows, and then those that others have not committed."""
    config, spec = job.config.encode_latents, job.spec
    rank = int(os.environ.get("RANK", "0")) if spec.workers.num_ranks > 1 else 0
    store = job.open_store()
    pool = Pool(store, spec.pool.stage, spec.pool.key, schema=LATENTS, id_column="sample_key")
    todo = job.todo()
    job.report(Progress(0, todo.num_rows, "samples", worker=rank, phase="loading the model"))
    device = resolve_device(config.resources.device, rank=rank)
    if device.type == "cpu":
        torch.set_num_threads(1)  # more would change the last bits with their number: use more processes
    vae = load_vae(
        spec.model.path,
        revision=spec.model.revision,
        precision=config.vae_precision,
        device=device,
        tiling=config.tiling,
    )
    if config.batch_size > 1:
        vae.disable_slicing()
    if config.compile:
        compile_encoder(vae, cache=job.work_dir / "cache" / "compiled")
    partition = WorkPartition(pool, todo, part_size=config.resources.samples_per_part)
    # by bucket; samples that earlier runs encoded are counted by the first worker only
    done = Counter(partition.done() if rank == 0 else {})
    job.report(Progress(done.total(), todo.num_rows, "samples", worker=rank, counts=dict(done)))
    num_rejected = 0
    layout = ", channels_last_3d" if has_channels_last(config.vae_precision, device) else ""
    made_by = provenance(device, config.vae_precision, layout)

    def launch(pixels: np.ndarray) -> HostCopy:
        latents = encode_latents(vae, torch.from_numpy(pixels), precision=config.vae_precision)
        return HostCopy(latents.to(DTYPES[config.dtype]))

    windows = windows_ahead(
        partition,
        open_sources(job.config, work_dir=job.work_dir),
        to_pixels,
        workers=spec.workers,
        crashes=spec.crashes,
        rank=rank,
        num_threads=config.resources.decode_threads,
    )
    batches = _batches(windows, config.batch_size)
    with PartWriter(pool, shard_bytes=config.resources.shard_mib * 2**20, provenance=made_by) as writer:
        for encoded in _encoded(batches, launch, num_behind=1 if device.type == "cuda" else 0):
            if encoded is None:
                writer.end_part()
                continue
            rows, result = encoded
            if isinstance(result, ClipRejected):
                writer.reject(rows[0], result)
                num_rejected += 1
            else:
                for row, latent in zip(rows, result.wait(), strict=False):  # the batch may be filled up by repeats
                    writer.add(row, _finite(latent, config.dtype, row))
            bucket = rows[0]["bucket"]
            done[bucket] += len(rows)
            counts = {**done, REJECTED: num_rejected}
            job.report(Progress(done.total(), todo.num_rows, "samples", bucket, worker=rank, counts=counts))


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[Batch[Decoded]]:
    """Yield rows and their pixels, float32 [B, 3, F, H, W] in [-1, 1], or one row and its rejection.

    B is always `batch_size`.

    None follows the last of a part, which is filled up by repeats: a sample's bytes depend on the size of the batch,
    not on what is in it.
    """
    for _, of_part in groupby(items, key=itemgetter(0)):
        rows: list[Row] = []
        pixels: list[np.ndarray] = []
        for _, row, future in of_part:
            decoded = future.result()
            if isinstance(decoded, ClipRejected):
                yield [row], decoded
                continue
            rows.append(row)
            pixels.append(decoded)
            del decoded, future  # 400 MB at 81x480x832, which would stay while the next window is waited for
            if len(rows) == batch_size:
                yield rows, np.stack(pixels) if batch_size > 1 else pixels.pop()[None]
                rows, pixels = [], []
        if rows:
            yield rows, np.stack(pixels + [pixels[-1]] * (batch_size - len(pixels)))
        yield None


def _encoded(
    batches: Iterable[Batch[Decoded]], launch: Callable[[np.ndarray], HostCopy], *, num_behind: int
) -> Iterator[Batch[HostCopy | ClipRejected]]:
    """Launch the encoding of batches; yields them in order, their latents [B, 16, f, h, w] on the way to the host.

    Each is yielded when `num_behind` more have been launched, so that a GPU has work while the caller waits for a
    result and checks it, and while pixels are waited for, checked and copied.
    """
    launched: deque[Batch[HostCopy | ClipRejected]] = deque()
    num_launched = 0
    for batch in batches:
        if batch is None or isinstance(batch[1], ClipRejected):
            launched.append(batch)  # type: ignore[arg-type]
        else:
            launched.append((batch[0], launch(batch[1])))
            num_launched += 1
        del batch
        while launched and (num_launched > num_behind or not _is_launched(launched[0])):
            num_launched -= _is_launched(launched[0])
            yield launched.popleft()
    yield from launched


def _is_launched(batch: Batch[HostCopy | ClipRejected]) -> bool:
    return batch is not None and isinstance(batch[1], HostCopy)


def _finite(latent: Tensor, dtype: str, row: Row) -> Tensor:
    """Return a latent [16, f, h, w], checked finite in the dtype that it is stored in."""
    finite = torch.isfinite(latent)
    if not finite.all():
        raise SanaError(
            f"encode_latents: {row['path']} has latents that are not finite in {dtype} ({int((~finite).sum()):,} of "
            f"{latent.numel():,} values); set encode_latents.dtype to bf16 or fp32"
        )
    return latent


if __name__ == "__main__":
    run_worker(encode, EncodeLatentsSpec)
