"""Worker: decode, resize and encode clip windows that the pool lacks, and commit them part by part.

A bounded pipeline: threads decode ahead, so that the VAE does not wait, over the borders of parts. In memory are at
most `decode_threads` + 1 windows, a batch, and the latents of one shard, however long or many the clips are.
Several workers divide a todo without a coordinator: each takes its own parts first, then helps the others.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sana.arrow import table_of
from sana.data.schemas import LATENTS, Reason
from sana.data.shards.shard import DTYPES, Location, write_shard
from sana.data.shards.shard_tables import require_shards
from sana.data.sources.source import open_sources
from sana.data.video.frames import read_window
from sana.data.video.video import ClipRejected, to_pixels
from sana.errors import SanaError
from sana.model.device import provenance, resolve_device
from sana.model.vae import encode_latents, load_vae
from sana.progress import REJECTED, Progress
from sana.runtime.crash_journal import MAX_CRASHES, CrashJournal, Quarantine
from sana.runtime.job import Job, rank_journal, run_worker
from sana.runtime.pool import Pool, part_name, slices
from sana.runtime.specs import EncodeLatentsSpec
from sana.runtime.threads import in_threads
from sana.runtime.work_partition import WorkPartition
from sana.store import Store

_NOTHING = Location("", 0, 0, "", "", ())
Row = Mapping[str, Any]
Decoded = np.ndarray | ClipRejected  # pixels float32 [3, F, H, W] in [-1, 1], in batches with a B before
Item = tuple[int, Row, Decoded]  # number of the part, row, its window


def encode(job: Job[EncodeLatentsSpec]) -> None:
    """Encode the job's windows, all of them unless other workers do some; a part is committed when it is whole."""
    config, spec = job.config.encode_latents, job.spec
    rank = int(os.environ.get("RANK", "0")) if spec.workers.num_ranks > 1 else 0
    store = job.open_store()
    pool = Pool(store, spec.pool.stage, spec.pool.key, schema=LATENTS, id_column="sample_key")
    device = resolve_device(config.resources.device, rank=rank)
    if device.type == "cpu":
        torch.set_num_threads(1)  # more would change the last bits with their number: use more processes
    vae = load_vae(
        spec.model.path,
        revision=spec.model.revision,
        dtype=DTYPES[config.vae_dtype],
        device=device,
        tiling=config.tiling,
    )
    if config.batch_size > 1:
        vae.disable_slicing()
    todo = job.todo()
    partition = WorkPartition(pool, todo, part_size=config.resources.samples_per_part)
    # by bucket; what a worker before us did is counted once, by the first
    done = Counter(partition.done() if rank == 0 else {})
    job.report(Progress(done.total(), todo.num_rows, "samples", worker=rank, counts=dict(done)))
    num_rejected = 0
    for _, items in groupby(_windows(job, partition, rank), key=itemgetter(0)):
        shards = _Shards(store, f"{pool.folder}/shards", config.resources.shard_mib * 2**20)
        part: list[Row] = []
        rejections: dict[str, ClipRejected] = {}
        for rows, result in _batches(items, config.batch_size):
            if isinstance(result, ClipRejected):
                rejections[rows[0]["sample_key"]] = result
                num_rejected += 1
            else:
                latents = encode_latents(vae, torch.from_numpy(result))
                for row, latent in zip(rows, latents, strict=False):  # the batch may be filled up by repeats
                    shards.add(row["sample_key"], _store_dtype(latent, config.dtype, row))
            part += rows
            bucket = rows[0]["bucket"]
            done[bucket] += len(rows)
            counts = {**done, REJECTED: num_rejected}
            job.report(Progress(done.total(), todo.num_rows, "samples", bucket, worker=rank, counts=counts))
        index = _index(part, shards.close(), rejections, provenance(device))
        require_shards(store, index)  # `gc` may have come by
        pool.commit_part(index)


def _windows(job: Job[EncodeLatentsSpec], partition: WorkPartition, rank: int) -> Iterator[Item]:
    """Decode this worker's partition: the quarantined first, by the first worker, while it has no other clip open."""
    spec, quarantined = job.spec, Quarantine(job.spec.crashes.num_crashes)
    journal = CrashJournal(rank_journal(Path(spec.crashes.journal), rank))
    decode = _decoder(job, journal, frozenset(quarantined.to_reject))
    apart = partition.apart(quarantined.to_isolate)
    if rank == 0:
        yield from _ahead(slices(apart, 1), decode, 0, first=-len(apart))
    parts = partition.parts(spec.workers.first_worker + rank, spec.workers.num_workers)
    yield from _ahead(parts, decode, job.config.encode_latents.resources.decode_threads)
    journal.close()


def _decoder(job: Job[EncodeLatentsSpec], journal: CrashJournal, to_reject: frozenset[str]) -> Callable[[Row], Decoded]:
    """Return what turns a row into pixels float32 [3, F, H, W] in [-1, 1], or into a rejection."""
    sources = open_sources(job.config, work_dir=job.work_dir)

    def decode(row: Row) -> Decoded:
        if row["digest"] in to_reject:
            return ClipRejected(Reason.KILLED_WORKER, f"{MAX_CRASHES} processes died while they decoded it")
        with sources[row["dataset"]].open_video(row["path"], digest=row["digest"]) as path:
            try:
                with journal.open(row["digest"]):
                    return to_pixels(read_window(path, row))
            except ClipRejected as rejection:
                return rejection

    return decode


def _ahead(
    parts: Iterable[Sequence[Row]], decode: Callable[[Row], Decoded], num_ahead: int, first: int = 0
) -> Iterator[Item]:
    """Yield (number of the part, row, its window) in order, `num_ahead` of them decoded ahead, each by a thread.

    A part is asked for when its first row is to be decoded.
    """
    rows = ((number, row) for number, part in enumerate(parts, first) for row in part)

    def decoded(numbered: tuple[int, Row]) -> Item:
        return (*numbered, decode(numbered[1]))

    return in_threads(decoded, rows, num_threads=max(num_ahead, 1), num_ahead=num_ahead)


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[tuple[list[Row], Decoded]]:
    """Yield rows and their pixels [B, 3, F, H, W], B always `batch_size`, or one row and its rejection.

    The last batch is filled up by repeats: a sample's bytes depend on the size of the batch, not on what is in it.
    """
    rows: list[Row] = []
    pixels: list[np.ndarray] = []
    for _, row, decoded in items:
        if isinstance(decoded, ClipRejected):
            yield [row], decoded
            continue
        rows.append(row)
        pixels.append(decoded)
        del decoded  # 400 MB at 81x480x832, which would stay while the next window is waited for
        if len(rows) == batch_size:
            yield rows, np.stack(pixels) if batch_size > 1 else pixels.pop()[None]
            rows, pixels = [], []
    if rows:
        yield rows, np.stack(pixels + [pixels[-1]] * (batch_size - len(pixels)))


def _store_dtype(latent: Tensor, dtype: str, row: Row) -> Tensor:
    """Return a latent [16, f, h, w] in the stored dtype on the CPU, checked finite."""
    stored = latent.to(DTYPES[dtype]).cpu()
    if not torch.isfinite(stored).all():
        raise SanaError(
            f"encode_latents: {row['path']} has latents that are not finite in {dtype} "
            f"(largest {latent.abs().max().item():.3g}); set encode_latents.dtype to bf16 or fp32"
        )
    return stored


class _Shards:
    """A part's latents, written as shards of about `shard_bytes`: one shard is in memory at a time."""

    def __init__(self, store: Store, folder: str, shard_bytes: int) -> None:
        self._store, self._folder, self._shard_bytes = store, folder, shard_bytes
        self._open: dict[str, Tensor] = {}
        self._written: dict[str, Location] = {}

    def add(self, key: str, latent: Tensor) -> None:
        self._open[key] = latent
        if sum(tensor.nbytes for tensor in self._open.values()) >= self._shard_bytes:
            self._flush()

    def close(self) -> dict[str, Location]:
        """Write what is left and return where each latent is."""
        self._flush()
        return self._written

    def _flush(self) -> None:
        if self._open:
            self._written |= write_shard(self._store, self._folder, part_name(self._open), self._open)
            self._open = {}


def _index(
    part: Sequence[Row], locations: Mapping[str, Location], rejections: Mapping[str, ClipRejected], provenance: str
) -> pa.Table:
    """Return the pool rows of a part."""
    rows = []
    for row in part:
        rejection = rejections.get(row["sample_key"])
        why = {"reason": rejection.reason, "detail": rejection.detail} if rejection else {"reason": "", "detail": ""}
        rows.append({**row, **why, **vars(locations.get(row["sample_key"], _NOTHING)), "provenance": provenance})
    return table_of(rows, LATENTS)


if __name__ == "__main__":
    run_worker(encode, EncodeLatentsSpec)
