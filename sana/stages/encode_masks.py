"""Encode masks: how much each latent pixel of a window weighs in the loss, pooled by the mask's content.

It stands behind bucket and before the encoders: a window whose mask cannot be used is rejected before it costs more.
A data set without masks, and a clip without one where `masks.missing` is whole, weighs 1 everywhere.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.schemas import MASK_INDEX, MASKS, REJECTS, SAMPLE_KEY_COLUMNS, WINDOWS, Reason
from sana.data.tables import count_rejects, read_table, sample_keys
from sana.errors import RejectedError
from sana.progress import Continued
from sana.runtime.pool import Pool
from sana.runtime.specs import CrashHistory, EncodeMasksSpec, PoolName
from sana.runtime.worker import restart_on_crash, run_worker
from sana.stages.bodies.pooled_tensors import PooledTensors
from sana.stages.bodies.window_views import content_of_windows

NAME, VERSION = "encode_masks", 1
READS, GIVES = ("mask_files", "windows"), ("masks", "windows")
_CONTENT = ("sample_id", "digest", "dtype", "shape")
_OF_CLIP = ("width", "height", "num_frames", "fps", "duration_s")  # what a mask is held against
_WHOLE = ""  # the digest in place of a mask's, of a window that weighs 1 everywhere
_WANTED = ("mask_digest", "mask_path", "inverted", "keep_empty")


def is_used(config: Config) -> bool:
    """Where the loss or a condition looks inside masks; a config that asks for it has a data set with masks."""
    return config.trains_with_masks


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the masks, the windows, and what each data set says of masks."""
    policies = {
        found.id: {"inverted": found.masks.inverted, "missing": found.masks.missing, "empty": found.masks.empty}
        for found in context.config.download.enabled
        if found.masks is not None
    }
    read = {"masks": inputs["mask_files"].content["masks"], "windows": inputs["windows"].content["windows"]}
    return Recipe(NAME, VERSION, {"datasets": policies}, read)


def pool_of(context: Context) -> Pool:
    """The pool of masks."""
    return Pool(context.store, NAME, context.salted(f"v{VERSION}"), schema=MASKS, id_column="mask_key")


def _with_masks(context: Context, inputs: Mapping[str, Artifact]) -> pa.Table:
    """Return the windows with _WANTED and `mask_key`; null where a mask is missing and that is a reason to reject."""
    windows = read_table(context.store, inputs["windows"], "clips.parquet")
    masks = read_table(context.store, inputs["mask_files"], "masks.parquet")
    at = pc.index_in(windows.column("clip_id"), masks.column("clip_id").combine_chunks())
    datasets = context.config.download.enabled
    which = pc.index_in(windows.column("dataset"), pa.array([found.id for found in datasets])).to_numpy()

    def policy(of: Mapping[str, bool]) -> pa.Array:
        return pa.array(np.array([of.get(found.id, False) for found in datasets])[which])

    own = {found.id: found.masks for found in datasets if found.masks is not None}
    must_have = policy({name: masks.missing == "reject" for name, masks in own.items()})
    nothing = pc.if_else(must_have, pa.scalar(None, pa.string()), _WHOLE)
    columns = {
        "mask_digest": pc.coalesce(masks.column("digest").take(at), nothing),
        "mask_path": pc.fill_null(masks.column("path").take(at), ""),
        "inverted": pc.and_(policy({name: masks.inverted for name, masks in own.items()}), at.is_valid()),
        "keep_empty": policy({name: masks.empty == "keep" for name, masks in own.items()}),
    }
    for name, values in columns.items():
        windows = windows.append_column(name, values)
    return _keyed(windows)


def _keyed(windows: pa.Table) -> pa.Table:
    """Add `mask_key`, which names what the bytes of a mask, or its rejection, are a function of.

    And `pass_key`, the same without the window's start: windows that one pass over a mask reads; and `pass_start`.
    """
    of_mask = [pc.cast(windows.column(name), pa.string()) for name in ("inverted", "keep_empty", *_OF_CLIP)]
    named = pc.binary_join_element_wise(windows.column("mask_digest"), *of_mask, "/")
    whole = pc.fill_null(pc.equal(windows.column("mask_digest"), _WHOLE), False)
    cut = windows.select(list(SAMPLE_KEY_COLUMNS))
    digest = pc.fill_null(pc.if_else(whole, _WHOLE, named), "")
    cut = cut.set_column(cut.schema.get_field_index("digest"), "digest", digest)
    for name in SAMPLE_KEY_COLUMNS:  # one tensor of ones for each bucket, however windows are cut
        if name not in ("digest", "bucket"):
            cut = _without(cut, name, whole)
    windows = windows.append_column("mask_key", sample_keys(cut))
    windows = windows.append_column("pass_start", cut.column("start_frame"))
    everywhere = pa.array(np.ones(cut.num_rows, bool))
    return windows.append_column("pass_key", sample_keys(_without(cut, "start_frame", everywhere)))


def _without(table: pa.Table, name: str, rows: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Return a table whose column is empty, or 0, in some rows."""
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    neutral = pa.scalar("" if pa.types.is_string(field.type) else 0, field.type)
    return table.set_column(at, field, pc.if_else(rows, neutral, table.column(name)))


def _tensors(context: Context, windows: pa.Table) -> PooledTensors:
    return PooledTensors(
        stage=NAME,
        pool=pool_of(context),
        wanted=windows.filter(windows.column("mask_digest").is_valid()),
        unit="samples",
        todo=("mask_key", "pass_key", "dataset", *_WANTED, *_OF_CLIP, *SAMPLE_KEY_COLUMNS),
        order=("pass_key", "pass_start", "mask_key", "dataset", "mask_path"),
        index=MASK_INDEX,
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return _tensors(context, _with_masks(context, inputs)).remaining()


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Encode what the pool lacks; write `index.parquet`, `rejects.parquet` and `clips.parquet`, the windows left.

    Raises:
        RejectedError: one split is empty now.
        WorkerError: the worker died, and no mask was to blame, or too many were.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    windows = _with_masks(context, inputs)
    tensors = _tensors(context, windows)
    made = tensors.make(draft, lambda todo: _encode(context, tensors, todo), may_reject=False)
    rejects = pa.concat_tables([_without_a_mask(windows), made.rejects]).sort_by("clip_id")
    draft.add("rejects.parquet", to_parquet(rejects))
    is_left = pc.is_in(windows.column("sample_id"), made.index.column("sample_id").combine_chunks())
    left = windows.filter(is_left).select(WINDOWS.names).cast(WINDOWS)
    draft.add("clips.parquet", to_parquet(left))
    lost = set(windows.column("split").unique().to_pylist()) - set(left.column("split").unique().to_pylist())
    if lost and left.num_rows:
        raise RejectedError(
            f"{NAME}: no sample of the {' or the '.join(sorted(lost))} split is left, as none of them has a mask that "
            "can be used; set download.datasets.ID.masks.missing: whole, or masks.empty: keep"
        )
    content = {split: made.digest(_CONTENT, column="split", among=[split]) for split in ("train", "eval")}
    counts = count_rejects(value_counts(windows.column("dataset")), made.index.num_rows, rejects)
    whole = pc.sum(pc.equal(pc.drop_null(windows.column("mask_digest")), _WHOLE)).as_py() or 0
    return draft.commit(
        content={**content_of_windows(left), **content}, counts=counts.with_extra(encoded=made.num_made, whole=whole)
    )


def _without_a_mask(windows: pa.Table) -> pa.Table:
    """Return the rows of REJECTS of the windows that must have a mask, and have none."""
    lacking = windows.filter(windows.column("mask_digest").is_null())
    texts = {"stage": NAME, "reason": Reason.NO_MASK.value, "detail": "there is no mask of this clip"}
    columns = [
        pa.repeat(pa.scalar(texts[name]), lacking.num_rows) if name in texts else lacking.column(name)
        for name in REJECTS.names
    ]
    return pa.table(columns, REJECTS.names).cast(REJECTS)


def _encode(context: Context, tensors: PooledTensors, todo: pa.Table) -> None:
    report = Continued(context.report, tensors.num_wanted())

    def encode(crashes: CrashHistory) -> None:
        spec = EncodeMasksSpec(PoolName(NAME, tensors.pool.key), crashes)
        run_worker(context, spec, todo=todo, report=report)

    restart_on_crash(context, NAME, encode)
