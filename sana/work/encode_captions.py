"""Worker: encode texts that the pool lacks, and commit them part by part."""

import sana.work.start  # noqa: F401 - first of all

# isort: split
import torch

from sana.data.manifest import table_of
from sana.data.pool import Pool, part_name, slices
from sana.data.schemas import TEXTS
from sana.data.shard import DTYPES, write_shard
from sana.model.device import made_by, resolve_device
from sana.model.text import TextEncoder
from sana.progress import Progress
from sana.work.job import Job, run_worker


def encode(job: Job) -> None:
    """Encode the job's texts in batches of exactly `batch_size`, sorted by key.

    A last, shorter batch is filled up by repeats: the number of rows in a forward pass may change the last bits.
    """
    config = job.config.encode_captions
    store = job.open_store()
    folder = job.spec["pool"]
    pool = Pool(store, "encode_captions", folder.rpartition("/")[2], schema=TEXTS, id_column="text_key")
    device = resolve_device(config.resources.device)
    encoder = TextEncoder.load(
        job.spec["model_path"], revision=job.spec["model_revision"], dtype=DTYPES[config.dtype], device=device
    )
    todo, done = job.spec["todo"], 0
    job.report(Progress(0, len(todo), "texts"))
    for part in slices(todo, config.resources.texts_per_part):
        tensors: dict[str, torch.Tensor] = {}
        truncated: dict[str, bool] = {}
        for template in sorted({row["template"] for row in part}):
            rows = [row for row in part if row["template"] == template]
            for batch in slices(rows, config.batch_size):
                filled = [*batch, *[batch[-1]] * (config.batch_size - len(batch))]
                captions = encoder.encode(
                    [row["text"] for row in filled], template=template, max_tokens=config.max_tokens
                )
                for row, caption in zip(batch, captions, strict=False):
                    tensors[row["text_key"]] = caption.tokens
                    truncated[row["text_key"]] = caption.truncated
                done += len(batch)
                job.report(Progress(done, len(todo), "texts"))
        locations = write_shard(store, f"{folder}/shards", part_name(tensors), tensors)
        pool.commit_part(
            table_of(
                [
                    {
                        **row,
                        "truncated": truncated[row["text_key"]],
                        **vars(locations[row["text_key"]]),
                        "made_by": made_by(device),
                    }
                    for row in part
                ],
                TEXTS,
            )
        )


if __name__ == "__main__":
    run_worker(encode)
