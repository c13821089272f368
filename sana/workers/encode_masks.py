"""Worker: decode the masks that are missing in the pool, in threads, reduce them to latents' size, and commit them.

A process of its own, because a damaged file can crash the process that opens it: the stage then starts another.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from sana.bucket import Bucket
from sana.data.schemas import MASKS, Reason
from sana.data.shards.part_writer import PartWriter
from sana.data.sources.source import Source, open_sources
from sana.data.video.masks import Weights, read_masks
from sana.data.video.video import ClipRejected
from sana.progress import REJECTED, Progress
from sana.runtime.crash_journal import MAX_CRASHES, CrashJournal, Quarantine
from sana.runtime.job import Job, run_worker
from sana.runtime.pool import Pool
from sana.runtime.specs import EncodeMasksSpec
from sana.runtime.threads import in_threads
from sana.store_errors import StoreError

Row = Mapping[str, Any]
Encoded = list[tuple[Row, Weights | ClipRejected]]


def encode_masks(job: Job[EncodeMasksSpec]) -> None:
    """Encode the job's masks; first, one by one, those open when a worker crashed.

    Raises:
        StoreError: a file cannot be read, because of the disk or the network.
    """
    resources, spec = job.config.encode_masks.resources, job.spec
    pool = Pool(job.open_store(), spec.pool.stage, spec.pool.key, schema=MASKS, id_column="mask_key")
    todo = job.todo()
    todo = todo.filter(pc.invert(pc.is_in(todo.column("mask_key"), pool.ids().combine_chunks())))  # after a crash
    total, num_done, num_rejected = todo.num_rows, 0, 0
    quarantined, journal = Quarantine(spec.crashes.num_crashes), CrashJournal(Path(spec.crashes.journal))
    encode = partial(
        _encode_group,
        sources=open_sources(job.config, work_dir=job.work_dir),
        journal=journal,
        to_reject=frozenset(quarantined.to_reject),
    )
    job.report(Progress(0, total, "samples", phase="opening the first masks"))
    made_by = f"PyAV {version('av')}; Pillow {version('pillow')}"
    apart = pc.is_in(todo.column("mask_digest"), pa.array(quarantined.to_isolate, pa.string()))
    with PartWriter(pool, shard_bytes=resources.shard_mib * 2**20, provenance=made_by) as writer:
        for rows, threads in ((todo.filter(apart), 1), (todo.filter(pc.invert(apart)), resources.num_workers)):
            for start in range(0, rows.num_rows, resources.samples_per_part):
                part = rows.slice(start, resources.samples_per_part).to_pylist()
                for group in in_threads(encode, _groups(part), num_threads=threads, num_ahead=threads - 1):
                    for row, weights in group:
                        num_rejected += isinstance(weights, ClipRejected)
                        _write(writer, row, weights)
                    num_done += len(group)
                    counts = {REJECTED: num_rejected}
                    job.report(Progress(num_done, total, "samples", f"{num_rejected} rejected", counts=counts))
                writer.end_part()
    journal.close()


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for _, group in groupby(rows, key=itemgetter("pass_key")):
        yield list(group)


def _encode_group(
    rows: Sequence[Row], *, sources: Mapping[str, Source], journal: CrashJournal, to_reject: frozenset[str]
) -> Encoded:
    """Encode the windows of one mask."""
    first = rows[0]
    digest, path = first["mask_digest"], first["mask_path"]
    if not digest:
        frames, height, width = Bucket.parse(first["bucket"]).latent_shape[1:]
        return [(row, np.ones((1, frames, height, width), np.float32)) for row in rows]
    if digest in to_reject:
        killed = ClipRejected(Reason.KILLED_WORKER, f"{path}: {MAX_CRASHES} processes died while they decoded it")
        return [(row, killed) for row in rows]
    try:
        with sources[first["dataset"]].open_video(path, digest=digest) as local, journal.open(digest):
            return [(row, _naming(path, mask)) for row, mask in zip(rows, read_masks(local, rows), strict=True)]
    except OSError as error:
        raise StoreError(
            f"encode_masks: {path} of download.datasets[{first['dataset']}] cannot be read ({error}); "
            "see to the disk or the permission, then run again"
        ) from error


def _naming(path: str, mask: Weights | ClipRejected) -> Weights | ClipRejected:
    return ClipRejected(mask.reason, f"{path}: {mask.detail}") if isinstance(mask, ClipRejected) else mask


def _write(writer: PartWriter, row: Row, weights: Weights | ClipRejected) -> None:
    if isinstance(weights, ClipRejected):
        writer.reject({**row, "covered": 0.0}, weights)
    else:
        writer.add({**row, "covered": float(weights.mean(dtype=np.float64))}, torch.from_numpy(weights).half())


if __name__ == "__main__":
    run_worker(encode_masks, EncodeMasksSpec)
