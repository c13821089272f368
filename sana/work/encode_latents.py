"""Worker: decode, resize and encode clip windows that the pool lacks, and commit them part by part.

Threads decode ahead, so that the VAE does not wait; at most two parts' worth of windows are in memory.
"""

import sana.work.start  # noqa: F401 - first of all

# isort: split
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sana.data.frames import read_window
from sana.data.manifest import table_of
from sana.data.pool import Pool, part_name, slices
from sana.data.schemas import LATENTS
from sana.data.shard import DTYPES, Location, write_shard
from sana.data.source import Source, open_sources
from sana.data.video import ClipRefused, to_pixels
from sana.errors import SanaError
from sana.model.device import made_by, resolve_device
from sana.model.vae import encode_latents, load_vae
from sana.progress import Progress
from sana.work.job import Job, run_worker

_NOTHING = Location("", 0, 0, "", "", ())
Row = Mapping[str, Any]


def encode(job: Job) -> None:
    """Encode the job's windows, one at a time: a batch would change the last bits."""
    config = job.config.encode_latents
    store = job.open_store()
    pool = Pool(store, "encode_latents", job.spec["pool"].rpartition("/")[2], schema=LATENTS, id_column="sample_key")
    sources = open_sources(job.config, work_dir=job.work_dir)
    device = resolve_device(config.resources.device)
    vae = load_vae(
        job.spec["model_path"],
        revision=job.spec["model_revision"],
        dtype=DTYPES[config.vae_dtype],
        device=device,
        tiling=config.tiling,
    )
    todo: Sequence[Row] = job.spec["todo"]
    done = refused = 0
    job.report(Progress(0, len(todo), "samples"))
    for part in _parts(todo, config.resources.samples_per_part):
        latents: dict[str, Tensor] = {}
        reasons: dict[str, ClipRefused] = {}
        for row, pixels in _decode_ahead(part, sources, config.resources.decode_threads):
            key = row["sample_key"]
            if isinstance(pixels, ClipRefused):
                reasons[key] = pixels
                refused += 1
            else:
                latents[key] = _store_dtype(encode_latents(vae, torch.from_numpy(pixels)[None]), config.dtype, row)
            done += 1
            job.report(Progress(done, len(todo), "samples", f"{row['bucket']}, {refused} refused"))
        locations = _write_shards(store, job.spec["pool"], latents, config.resources.shard_mib * 2**20)
        rows = []
        for row in part:
            refusal = reasons.get(row["sample_key"])
            why = {"reason": refusal.reason, "detail": refusal.detail} if refusal else {"reason": "", "detail": ""}
            where = vars(locations.get(row["sample_key"], _NOTHING))
            rows.append({**row, **why, **where, "made_by": made_by(device)})
        pool.commit_part(table_of(rows, LATENTS))


def _parts(todo: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Cut the work, sorted by bucket, into parts of one bucket each."""
    for _, rows in groupby(todo, key=lambda row: row["bucket"]):
        yield from slices(list(rows), size)


def _decode_ahead(
    part: Sequence[Row], sources: Mapping[str, Source], num_threads: int
) -> Iterator[tuple[Row, np.ndarray | ClipRefused]]:
    """Yield (row, pixels float32 [3, F, H, W] in [-1, 1] or a refusal) in order, `num_threads` + 1 ahead."""
    with ThreadPoolExecutor(num_threads) as workers:
        waiting: deque[tuple[Row, Future[np.ndarray | ClipRefused]]] = deque()
        for row in part:
            waiting.append((row, workers.submit(_decode, row, sources[row["dataset"]])))
            if len(waiting) > num_threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _decode(row: Row, source: Source) -> np.ndarray | ClipRefused:
    with source.open_video(row["path"], digest=row["digest"]) as path:
        try:
            return to_pixels(read_window(path, row))
        except ClipRefused as refusal:
            return refusal


def _store_dtype(latents: Tensor, dtype: str, row: Row) -> Tensor:
    """Return [1, 16, f, h, w] as [16, f, h, w] in the stored dtype, checked finite."""
    stored = latents[0].to(DTYPES[dtype]).cpu()
    if not torch.isfinite(stored).all():
        raise SanaError(
            f"encode_latents: {row['path']} has latents that are not finite in {dtype} "
            f"(largest {latents.abs().max().item():.3g}); set encode_latents.dtype to bf16 or fp32"
        )
    return stored


def _write_shards(store: Any, folder: str, latents: Mapping[str, Tensor], shard_bytes: int) -> dict[str, Location]:
    """Write a part's latents as shards of about `shard_bytes`; returns where each of them is."""
    locations: dict[str, Location] = {}
    shard: dict[str, Tensor] = {}
    for key, latent in latents.items():
        shard[key] = latent
        if sum(tensor.nbytes for tensor in shard.values()) >= shard_bytes:
            locations |= write_shard(store, f"{folder}/shards", part_name(shard), shard)
            shard = {}
    if shard:
        locations |= write_shard(store, f"{folder}/shards", part_name(shard), shard)
    return locations


if __name__ == "__main__":
    run_worker(encode)
