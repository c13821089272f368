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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sana.data.schemas import LATENTS, Reason
from sana.data.shards.part_writer import PartWriter, Row
from sana.data.shards.shard import DTYPES
from sana.data.sources.source import open_sources
from sana.data.video.one_pass import OF_ONE_PASS, read_windows
from sana.data.video.video import ClipRejected, to_pixels
from sana.errors import SanaError
from sana.model.compiled_vae import compile_encoder
from sana.model.device import out_of_memory_explained, provenance, resolve_device
from sana.model.transfers import HostCopy
from sana.model.vae import encode_latents, has_channels_last, load_vae
from sana.progress import REJECTED, Progress
from sana.runtime.crash_journal import MAX_CRASHES, CrashJournal, Quarantine
from sana.runtime.job import Job, rank_journal, run_worker
from sana.runtime.pool import Pool, slices
from sana.runtime.specs import EncodeLatentsSpec
from sana.runtime.work_partition import WorkPartition

Decoded = np.ndarray | ClipRejected  # pixels float32 [3, F, H, W] in [-1, 1], in batches with a B before
Item = tuple[int, Row, Future[Decoded]]  # number of the part, row, its window
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

    batches = _batches(_windows(job, partition, rank), config.batch_size)
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


def _windows(job: Job[EncodeLatentsSpec], partition: WorkPartition, rank: int) -> Iterator[Item]:
    """Decode this worker's parts; before, in the first worker, the quarantined clips, with no other clip open."""
    spec, quarantined = job.spec, Quarantine(job.spec.crashes.num_crashes)
    journal = CrashJournal(rank_journal(Path(spec.crashes.journal), rank))
    decode = _decoder(job, journal, frozenset(quarantined.to_reject))
    apart = partition.apart(quarantined.to_isolate)
    if rank == 0:
        yield from _decode_ahead(slices(apart, 1), decode, 0, first=-len(apart))
    parts = partition.parts(spec.workers.first_worker + rank, spec.workers.num_workers)
    yield from _decode_ahead(parts, decode, job.config.encode_latents.resources.decode_threads)
    journal.close()


def _decoder(
    job: Job[EncodeLatentsSpec], journal: CrashJournal, to_reject: frozenset[str]
) -> Callable[[Sequence[Row]], Generator[Decoded]]:
    """Return what turns rows into pixels float32 [3, F, H, W] in [-1, 1], or rejections, one after the other.

    Neighbours of one video are decoded in one pass over it.
    """
    sources = open_sources(job.config, work_dir=job.work_dir)

    def decode(rows: Sequence[Row]) -> Generator[Decoded]:
        for (digest, *_), windows in groupby(rows, key=itemgetter(*OF_ONE_PASS)):
            yield from decode_video(digest, list(windows))

    def decode_video(digest: str, windows: Sequence[Row]) -> Iterator[Decoded]:
        if digest in to_reject:
            rejection = ClipRejected(Reason.KILLED_WORKER, f"{MAX_CRASHES} processes died while they decoded it")
            yield from [rejection] * len(windows)
            return
        with sources[windows[0]["dataset"]].open_video(windows[0]["path"], digest=digest) as path:
            reading = read_windows(path, windows)
            for _ in windows:
                yield decode_next(digest, reading)

    def decode_next(digest: str, reading: Iterator[NDArray[np.uint8] | ClipRejected]) -> Decoded:
        with journal.open(digest):  # not while others' turn has come: it is decoded now
            frames = next(reading)
            return frames if isinstance(frames, ClipRejected) else to_pixels(frames)

    return decode


def _decode_ahead(
    parts: Iterable[Sequence[Row]],
    decode: Callable[[Sequence[Row]], Generator[Decoded]],
    num_ahead: int,
    first: int = 0,
) -> Iterator[Item]:
    """Yield (number of the part, row, its window), `num_ahead` of them decoded ahead, each by a thread.

    The next part is taken when its first row is to be decoded. Its rows are cut into one lane more than are decoded
    ahead, which take turns. So no lane is asked for its next window before the caller has waited for the one before it.
    """
    with ThreadPoolExecutor(max(num_ahead, 1)) as threads:
        waiting: deque[Item] = deque()
        for number, part in enumerate(parts, first):
            lanes = [(rows, decode(rows)) for rows in _lanes(part, num_ahead + 1)]
            for turn in range(len(lanes[0][0])):
                for rows, decoded in lanes:
                    if turn < len(rows):
                        is_last = turn == len(rows) - 1
                        waiting.append((number, rows[turn], threads.submit(_next_of, decoded, is_last=is_last)))
                        if len(waiting) > num_ahead:
                            yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _next_of(lane: Generator[Decoded], *, is_last: bool) -> Decoded:
    decoded = next(lane)
    if is_last:
        lane.close()  # its video
    return decoded


def _lanes(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    """Cut rows into at most `count` pieces of equal length, or one less: the longer ones first."""
    length, longer = divmod(len(rows), count)
    edges = [lane * length + min(lane, longer) for lane in range(count + 1)]
    return [rows[start:end] for start, end in pairwise(edges) if end > start]


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[Batch[Decoded]]:
    """Yield rows and their pixels [B, 3, F, H, W], B always `batch_size`, or one row and its rejection.

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
