"""Encode captions: one embedding per unique text, the null caption and the validation prompts included."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.context import Context
from sana.counts import Counts
from sana.data.schemas import CAPTION_INDEX, TEXTS
from sana.data.tables import read_table
from sana.model.model_resolver import ModelRef, resolve_model, source_of
from sana.progress import Continued
from sana.runtime.pool import Pool
from sana.runtime.specs import EncodeCaptionsSpec, PoolName
from sana.runtime.worker import run_worker
from sana.stages.bodies.pooled_tensors import PooledTensors

NAME = "encode_captions"
VERSION = 2
READS = ("captions", "windows")
GIVES = ("texts",)
_WANTED = pa.schema(
    [CAPTION_INDEX.field(name) for name in ("role", "name", "position", "text", "template", "text_key")]
)
_KEYS_AT_ONCE = 65_536  # texts whose keys are made at a time
_VIEWS = {"train": ("train", "null"), "eval": ("eval", "null"), "prompts": ("prompt", "negative")}  # by role
_CONTENT = ("role", "name", "position", "text_key", "digest", "dtype", "shape")


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the captions, which clips are left and in which split, the prompt library and the text encoder."""
    sample = context.config.sample
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    which = {"windows": inputs["windows"].content["windows"]} if _has_image_template(context) else {}
    return Recipe(
        NAME,
        VERSION,
        {
            **context.config.encode_captions.hashed(),
            "prompts": dict(sample.prompts),
            "negative_prompt": sample.negative_prompt,
        },
        {
            **which,
            "captions": inputs["captions"].content["captions"],
            "members": inputs["windows"].content["members"],
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
            "padding": config.padding,
        }
    )
    return Pool(context.store, NAME, context.salted(key[:16]), schema=TEXTS, id_column="text_key")


def _has_image_template(context: Context) -> bool:
    config = context.config.encode_captions
    return config.image_template not in (None, config.template)


def _wanted(context: Context, inputs: Mapping[str, Artifact]) -> pa.Table:
    """Return one row per (role, name, position): what is to be found in the index, before it is encoded."""
    config, sample = context.config.encode_captions, context.config.sample
    clips = read_table(context.store, inputs["windows"], "clips.parquet").select(["clip_id", "split", "bucket"])
    captions = read_table(context.store, inputs["captions"], "captions.parquet")
    at = pc.index_in(captions.column("clip_id"), clips.column("clip_id").combine_chunks())
    captions, at = captions.filter(at.is_valid()), at.drop_null()
    texts = captions.column("captions").combine_chunks()
    parents = pc.list_parent_indices(texts)
    lengths = pc.list_value_length(texts).to_numpy().astype(np.int64)
    first = np.cumsum(lengths) - lengths
    columns = pa.table(
        {
            "split": clips.column("split").take(at).take(parents),
            "clip_id": captions.column("clip_id").take(parents),
            "position": np.arange(len(parents)) - first[parents.to_numpy()],
            "text": pc.list_flatten(texts),
        }
    )
    of_clips: list[tuple[pa.Table, str]] = [(columns, config.template)]
    if _has_image_template(context):
        is_still = pc.starts_with(clips.column("bucket").take(at).take(parents), "1x")  # one frame
        of_clips = [(columns.filter(pc.invert(is_still)), config.template)]
        of_clips += [(columns.filter(is_still), str(config.image_template))]
    # One null caption serves dropout, the default negative prompt and guidance: no template, as the pipeline does.
    bare = _rows(["null", "negative"], ["", ""], [0, 0], ["", sample.negative_prompt], "none")
    names = sorted(sample.prompts)
    prompts = [sample.prompts[name] for name in names]
    of_library = _rows(["prompt"] * len(names), names, [0] * len(names), prompts, config.template)
    made = [_rows(some["split"], some["clip_id"], some["position"], some["text"], name) for some, name in of_clips]
    return pa.concat_tables([*made, bare, of_library])


def _rows(roles: object, names: object, positions: object, texts: object, template: str) -> pa.Table:
    """Return rows of one template; the text_key is made once for each text there is."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    unique = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
    keys = pa.chunked_array(list(_text_keys(unique.dictionary, template)), pa.string()).take(unique.indices)
    templates = pa.repeat(pa.scalar(template), len(unique))
    return pa.table([roles, names, positions, unique.cast(pa.string()), templates, keys], _WANTED.names).cast(_WANTED)


def _text_keys(texts: pa.Array, template: str) -> Iterator[pa.Array]:
    for start in range(0, len(texts), _KEYS_AT_ONCE):
        few = texts.slice(start, _KEYS_AT_ONCE).to_pylist()
        yield pa.array([digest_of([text, template]) for text in few], pa.string())


def _tensors(context: Context, inputs: Mapping[str, Artifact], model: ModelRef) -> PooledTensors:
    return PooledTensors(
        stage=NAME,
        pool=pool_of(context, model),
        wanted=_wanted(context, inputs),
        unit="texts",
        todo=("text_key", "text", "template"),
        order=("text_key",),
        index=CAPTION_INDEX,
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return _tensors(context, inputs, model).remaining()


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `index.parquet`: where the embedding of each caption, prompt and of the null caption is."""
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    tensors = _tensors(context, inputs, model)

    def encode(todo: pa.Table) -> None:
        report = Continued(context.report, tensors.num_wanted())
        spec = EncodeCaptionsSpec(PoolName(NAME, tensors.pool.key), source_of(model))
        run_worker(context, spec, todo=todo, report=report)

    made = tensors.make(draft, encode, may_reject=False)
    texts = pc.count_distinct(made.index.column("text_key")).as_py()
    truncated = pc.count_distinct(made.index.filter(made.index.column("truncated")).column("text_key")).as_py()
    return draft.commit(
        content={view: made.digest(_CONTENT, column="role", among=roles) for view, roles in _VIEWS.items()},
        counts=Counts.all_kept(texts, encoded=made.num_made, truncated=truncated),
    )
