"""Worker: encode the texts that are missing in the pool, and commit them part by part."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from sana.arrow import table_of
from sana.config.encode import EncodeCaptionsConfig
from sana.data.schemas import TEXTS
from sana.data.shards.shard import DTYPES, write_shard
from sana.data.shards.shard_tables import require_shards
from sana.model.device import out_of_memory_explained, provenance, resolve_device
from sana.model.text import EncodedCaption, TextEncoder
from sana.progress import Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.pool import Pool, part_name
from sana.runtime.specs import EncodeCaptionsSpec

_SHORT_STEP = 64  # tokens: `padding: short` pads to multiples of it, so a text's bytes do not depend on other texts
_TOKENIZE_AT_ONCE = 8192  # texts, to get their lengths


@out_of_memory_explained("encode_captions.batch_size=1, or encode_captions.resources.offload.type=block_level")
def encode(job: Job[EncodeCaptionsSpec]) -> None:
    """Encode the job's texts in batches of exactly `batch_size`, sorted by template and number of tokens.

    A shorter last batch is filled up by repeats: the number of rows in a forward pass may change the last bits.
    """
    config = job.config.encode_captions
    store = job.open_store()
    spec = job.spec
    pool = Pool(store, spec.pool.stage, spec.pool.key, schema=TEXTS, id_column="text_key")
    unsorted = job.todo()
    total, done = unsorted.num_rows, 0
    job.report(Progress(0, total, "texts", phase="loading the model"))
    device = resolve_device(config.resources.device)
    encoder = TextEncoder.load(
        spec.model.path,
        revision=spec.model.revision,
        dtype=DTYPES[config.dtype],
        device=device,
        offload=config.resources.offload,
        work_dir=job.work_dir,
    )
    job.report(Progress(0, total, "texts", phase="sorting texts by length"))
    todo, lengths = _sort_by_length(unsorted, encoder, config)
    job.report(Progress(0, total, "texts"))
    for start in range(0, total, config.resources.texts_per_part):
        part = todo.slice(start, config.resources.texts_per_part).to_pylist()
        encoded: dict[str, EncodedCaption] = {}
        for batch, length in _batches(part, lengths[start : start + len(part)], config.batch_size):
            filled = [*batch, *[batch[-1]] * (config.batch_size - len(batch))]
            captions = encoder.encode(
                [row["text"] for row in filled],
                template=batch[0]["template"],
                max_tokens=config.max_tokens,
                length=length,
            )
            encoded |= {row["text_key"]: caption for row, caption in zip(batch, captions, strict=False)}
            done += len(batch)
            job.report(Progress(done, total, "texts", f"in batches of {length} tokens" if done < total else ""))
        tensors: dict[str, torch.Tensor] = {key: caption.tokens for key, caption in encoded.items()}
        locations = write_shard(store, f"{pool.folder}/shards", part_name(tensors), tensors)
        rows = [
            {
                **row,
                "truncated": encoded[row["text_key"]].truncated,
                **vars(locations[row["text_key"]]),
                "provenance": provenance(device, config.dtype),
            }
            for row in part
        ]
        table = table_of(rows, TEXTS)
        require_shards(store, table)  # `gc` may have deleted them
        pool.commit_part(table)


def _sort_by_length(
    todo: pa.Table, encoder: TextEncoder, config: EncodeCaptionsConfig
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Sort texts by template, number of tokens and key; returns them and the padded length of each, int64 [N]."""
    sizes = np.zeros(todo.num_rows, np.int64)
    lengths = np.zeros(todo.num_rows, np.int64)
    templates = np.array(todo.column("template").to_pylist())
    for template in sorted(set(templates)):
        rows = np.flatnonzero(templates == template)
        for chunk in np.array_split(rows, -(-len(rows) // _TOKENIZE_AT_ONCE)):
            sizes[chunk] = encoder.num_tokens(todo.column("text").take(chunk).to_pylist(), template=template)
        full = encoder.padded_length(template, config.max_tokens)
        short = -(-sizes[rows] // _SHORT_STEP) * _SHORT_STEP
        lengths[rows] = np.minimum(short, full) if config.padding == "short" else full
    order = np.lexsort((np.array(todo.column("text_key").to_pylist()), sizes, templates))
    return todo.take(order), lengths[order]


def _batches(
    part: Sequence[dict[str, str]], lengths: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[Sequence[dict[str, str]], int]]:
    """Cut a part into batches of one template and padded length each; yields them with that length."""
    start = 0
    for end in range(1, len(part) + 1):
        if (
            end == len(part)
            or end - start == batch_size
            or part[end]["template"] != part[start]["template"]
            or lengths[end] != lengths[start]
        ):
            yield part[start:end], int(lengths[start])
            start = end


if __name__ == "__main__":
    run_worker(encode, EncodeCaptionsSpec)
