"""Worker: decode the windows that are missing in the pool, encode the frames that latents stand for, and commit them.

As encode_latents does: threads decode ahead and one writes behind, and several workers take parts of one todo without
communicating. Frames of one window alone share a forward pass, so no byte depends on what else is encoded.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import os
from collections import Counter
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from sana.bucket import Bucket
from sana.costs.features import encoder_size, feature_grid
from sana.data.schemas import FEATURES
from sana.data.shards.part_writer import PartWriter, Row
from sana.data.sources.source import open_sources
from sana.data.video.video import ClipRejected
from sana.data.video.windows_ahead import windows_ahead
from sana.errors import SanaError
from sana.model.device import out_of_memory_explained, provenance, resolve_device
from sana.model.features.dinov2 import FeatureEncoder, latent_frames
from sana.progress import REJECTED, Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.pool import Pool
from sana.runtime.specs import EncodeFeaturesSpec
from sana.runtime.work_partition import WorkPartition


@out_of_memory_explained("encode_features.frames_per_batch=1, or a smaller encode_features.short_side")
def encode(job: Job[EncodeFeaturesSpec]) -> None:
    """Encode this worker's parts of the job's windows, and then those that others have not committed."""
    config, spec = job.config.encode_features, job.spec
    rank = int(os.environ.get("RANK", "0")) if spec.workers.num_ranks > 1 else 0
    pool = Pool(job.open_store(), spec.pool.stage, spec.pool.key, schema=FEATURES, id_column="sample_key")
    todo = job.todo()
    total = todo.num_rows
    job.report(Progress(0, total, "samples", worker=rank, phase="loading the encoder"))
    device = resolve_device(config.resources.device, rank=rank)
    if device.type == "cpu":
        torch.set_num_threads(1)  # more would change the last bits with their number: use more processes
    encoder = FeatureEncoder.load(
        spec.encoder.path, revision=spec.encoder.revision, precision=config.precision, device=device
    )
    partition = WorkPartition(pool, todo, part_size=config.resources.samples_per_part)
    # by bucket; samples that earlier runs encoded are counted by the first worker only
    done = Counter(partition.done() if rank == 0 else {})
    job.report(Progress(done.total(), total, "samples", worker=rank, counts=dict(done)))
    windows = windows_ahead(
        partition,
        open_sources(job.config, work_dir=job.work_dir),
        latent_frames,
        workers=spec.workers,
        crashes=spec.crashes,
        rank=rank,
        num_threads=config.resources.decode_threads,
    )
    made_by, num_rejected = provenance(device, config.precision), 0
    with PartWriter(pool, shard_bytes=config.resources.shard_mib * 2**20, provenance=made_by) as writer:
        for _, of_part in groupby(windows, key=itemgetter(0)):
            for _, row, future in of_part:
                frames, bucket = future.result(), Bucket.parse(row["bucket"])
                if isinstance(frames, ClipRejected):
                    writer.reject(row, frames)
                    num_rejected += 1
                else:
                    features = encoder.encode(
                        torch.from_numpy(frames),
                        size=encoder_size(bucket, config.short_side, encoder.patch_size),
                        grid=feature_grid(bucket, config.tokens_per_cell),
                        at_once=config.frames_per_batch,
                    )
                    writer.add(row, _stored(features, row))
                done[row["bucket"]] += 1
                counts = {**done, REJECTED: num_rejected}
                job.report(Progress(done.total(), total, "samples", row["bucket"], worker=rank, counts=counts))
            writer.end_part()


def _stored(features: Tensor, row: Row) -> Tensor:
    """Return features in fp16 on the host, checked finite there."""
    stored = features.half().cpu()
    if not torch.isfinite(stored).all():
        raise SanaError(
            f"encode_features: {row['path']} has features that are not finite in fp16; is encode_features.encoder a "
            "whole DINOv2? Set encode_features.precision to fp32"
        )
    return stored


if __name__ == "__main__":
    run_worker(encode, EncodeFeaturesSpec)
