"""Encode latents: one normalised Wan VAE latent per clip window, pooled by the window's content."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.bucket import Bucket
from sana.context import Context
from sana.data.manifest import (
    content_digest,
    count_rejects,
    read_table,
    refused_by_dataset,
    sample_key,
    table_of,
    to_parquet,
)
from sana.data.pool import Pool
from sana.data.schemas import CUT, LATENT_INDEX, LATENTS, REJECTS
from sana.data.weights import ModelRef, resolve_model
from sana.errors import SanaError
from sana.stages.worker import run_worker

NAME = "encode_latents"
VERSION = 2
INPUTS = ("bucket",)
_CONTENT = ("sample_id", "clip_id", "dataset", "bucket", "passes", "digest", "dtype", "shape")
_BYTES_PER_VALUE = {"fp32": 4, "fp16": 2, "bf16": 2}


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the windows and the VAE; no caption."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return Recipe(
        NAME,
        VERSION,
        context.config.encode_latents.hashed(),
        {"windows": inputs["bucket"].content["windows"], "vae": model.digests["vae"]},
    )


def pool_of(context: Context, model: ModelRef) -> Pool:
    """The pool of latents made by this VAE with these settings."""
    settings = {"version": VERSION, "vae": model.digests["vae"], **context.config.encode_latents.hashed()}
    return Pool(context.store, NAME, context.salted(digest_of(settings)[:16]), schema=LATENTS, id_column="sample_key")


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    windows = read_table(context.store, inputs["bucket"], "clips.parquet")
    keys = {sample_key(window) for window in windows.select(list(CUT)).to_pylist()}
    done = keys & set(pool_of(context, model).rows().column("sample_key").to_pylist())
    return len(done), len(keys), "samples"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `index.parquet` (where each sample's latent is) and `rejects.parquet`.

    Raises:
        SanaError: the disk cannot hold what is to be encoded.
    """
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    pool = pool_of(context, model)
    windows = read_table(context.store, inputs["bucket"], "clips.parquet").to_pylist()
    for window in windows:
        window["sample_key"] = sample_key(window)
    known = set(pool.rows().column("sample_key").to_pylist())
    missing = {window["sample_key"]: window for window in windows if window["sample_key"] not in known}
    if missing:
        _check_space(context, missing.values())
        names = ("sample_key", "clip_id", "dataset", "path", *CUT)
        todo = sorted(
            ({name: window[name] for name in names} for window in missing.values()),
            key=lambda row: (row["bucket"], row["sample_key"]),
        )
        spec = {"pool": pool.folder, "todo": todo, "model_path": model.path, "model_revision": model.revision}
        run_worker(context, NAME, {}, spec)
    encoded = {row["sample_key"]: row for row in pool.rows().to_pylist()}
    rows = [{**window, **encoded[window["sample_key"]], "stage": NAME} for window in windows]
    index = table_of([row for row in rows if not row["reason"]], LATENT_INDEX)
    refused = table_of([row for row in rows if row["reason"]], REJECTS)
    draft.add("index.parquet", to_parquet(index))
    draft.add("rejects.parquet", to_parquet(refused))
    pool.compact()
    return draft.commit(
        content={split: content_digest(_split(index, split), _CONTENT) for split in ("train", "eval")},
        counts={**count_rejects(len(windows), index.num_rows, refused), "encoded": len(missing)},
        facts={
            "datasets": refused_by_dataset((row["dataset"] for row in windows), refused),
            "num_bytes": sum(index.column("num_bytes").to_pylist()),
            "train_samples": dict(sorted(Counter(_split(index, "train").column("dataset").to_pylist()).items())),
        },
    )


def _split(index: pa.Table, split: str) -> pa.Table:
    return index.filter(pa.compute.equal(index.column("split"), split))


def _check_space(context: Context, missing: Any) -> None:
    free = context.store.free_bytes()
    if free is None:
        return
    width = _BYTES_PER_VALUE[context.config.encode_latents.dtype]
    need = 0
    for window in missing:
        channels, frames, height, columns = Bucket.parse(window["bucket"]).latent_shape
        need += channels * frames * height * columns * width
    if need > free:
        raise SanaError(
            f"{NAME}: {len(missing)} samples need {need / 2**30:.2f} GiB at {context.store.root}, "
            f"{free / 2**30:.2f} GiB are free; make room, or choose another root"
        )
