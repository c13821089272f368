"""Encode captions: one embedding per unique text, the null caption and the validation prompts included."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.context import Context
from sana.data.manifest import content_digest, read_table, table_of, to_parquet
from sana.data.pool import Pool
from sana.data.schemas import CAPTION_INDEX, TEXTS
from sana.data.weights import ModelRef, resolve_model
from sana.stages.worker import run_worker

NAME = "encode_captions"
VERSION = 1
INPUTS = ("download", "bucket")
_CONTENT = ("role", "name", "position", "text_key", "digest", "dtype", "shape")


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the captions, which clips are left and in which split, the prompt library and the text encoder."""
    sample = context.config.sample
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return Recipe(
        NAME,
        VERSION,
        {
            **context.config.encode_captions.hashed(),
            "prompts": dict(sample.prompts),
            "negative_prompt": sample.negative_prompt,
        },
        {
            "captions": inputs["download"].content["captions"],
            "members": inputs["bucket"].content["members"],
            "text_encoder": model.digests["text_encoder"],
            "tokenizer": model.digests["tokenizer"],
        },
    )


def pool_of(context: Context, model: ModelRef) -> Pool:
    """The pool of embeddings made by this encoder with these settings; the template is part of each text's key."""
    config = context.config.encode_captions
    key = digest_of(
        {
            "version": VERSION,
            "text_encoder": model.digests["text_encoder"],
            "tokenizer": model.digests["tokenizer"],
            "dtype": config.dtype,
            "max_tokens": config.max_tokens,
            "batch_size": config.batch_size,
        }
    )
    return Pool(context.store, NAME, context.salted(key[:16]), schema=TEXTS, id_column="text_key")


def wanted(context: Context, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return one row per (role, name, position): what is to be found in the index, before it is encoded."""
    config, sample = context.config.encode_captions, context.config.sample
    splits = dict(
        zip(
            *(
                read_table(context.store, inputs["bucket"], "clips.parquet").column(c).to_pylist()
                for c in ("clip_id", "split")
            ),
            strict=True,
        )
    )
    rows: list[dict[str, Any]] = []
    for clip in read_table(context.store, inputs["download"], "captions.parquet").to_pylist():
        if clip["clip_id"] in splits:
            for position, text in enumerate(clip["captions"]):
                rows.append(_row(splits[clip["clip_id"]], clip["clip_id"], position, text, config.template))
    # One null caption serves dropout, the default negative prompt and guidance: no template, as the pipeline does.
    rows.append(_row("null", "", 0, "", "none"))
    rows.append(_row("negative", "", 0, sample.negative_prompt, "none"))
    rows += [_row("prompt", name, 0, text, config.template) for name, text in sorted(sample.prompts.items())]
    return rows


def _row(role: str, name: str, position: int, text: str, template: str) -> dict[str, Any]:
    text_key = digest_of([text, template])
    return {"role": role, "name": name, "position": position, "text": text, "template": template, "text_key": text_key}


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    keys = {row["text_key"] for row in wanted(context, inputs)}
    done = keys & set(pool_of(context, model).rows().column("text_key").to_pylist())
    return len(done), len(keys), "texts"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `index.parquet`: where the embedding of each caption, prompt and of the null caption is."""
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    pool = pool_of(context, model)
    rows = wanted(context, inputs)
    known = set(pool.rows().column("text_key").to_pylist())
    missing = {row["text_key"]: row for row in rows if row["text_key"] not in known}
    if missing:
        todo = [{name: row[name] for name in ("text_key", "text", "template")} for _, row in sorted(missing.items())]
        spec = {"pool": pool.folder, "todo": todo, "model_path": model.path, "model_revision": model.revision}
        run_worker(context, NAME, {}, spec)
    encoded = {row["text_key"]: row for row in pool.rows().to_pylist()}
    index = table_of([{**row, **encoded[row["text_key"]]} for row in rows], CAPTION_INDEX)
    draft.add("index.parquet", to_parquet(index))
    pool.compact()
    texts = len({row["text_key"] for row in rows})
    truncated = len({row["text_key"] for row in rows if encoded[row["text_key"]]["truncated"]})
    return draft.commit(
        content={
            "train": content_digest(_of(index, "train", "null"), _CONTENT),
            "eval": content_digest(_of(index, "eval", "null"), _CONTENT),
            "prompts": content_digest(_of(index, "prompt", "negative"), _CONTENT),
        },
        counts={"in": texts, "out": texts, "refused": 0, "encoded": len(missing), "truncated": truncated},
    )


def _of(index: pa.Table, *roles: str) -> pa.Table:
    return index.filter(pa.compute.is_in(index.column("role"), pa.array(roles)))
