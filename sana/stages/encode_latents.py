"""Encode latents: one normalised Wan VAE latent per clip window, pooled by the window's content."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.bucket import Bucket
from sana.context import Context
from sana.data.schemas import LATENT_INDEX, LATENTS, REJECTS, SAMPLE_KEY_COLUMNS
from sana.data.tables import content_digest, count_rejects, read_table, sample_keys
from sana.errors import SanaError
from sana.facts import EncodeLatentsFacts
from sana.model.model_resolver import ModelRef, resolve_model, source_of
from sana.progress import Summed
from sana.runtime.pool import Pool
from sana.runtime.specs import CrashHistory, EncodeLatentsSpec, PoolName, WorkerRange
from sana.runtime.worker import restart_on_crash, run_worker

NAME = "encode_latents"
VERSION = 4
INPUTS = ("bucket",)
_CONTENT = ("sample_id", "clip_id", "dataset", "bucket", "draws_per_epoch", "digest", "dtype", "shape")
_TODO = ("sample_key", "dataset", "path", *SAMPLE_KEY_COLUMNS)


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
    keys = pc.unique(sample_keys(read_table(context.store, inputs["bucket"], "clips.parquet")))
    done = pc.sum(pc.is_in(keys, pool_of(context, model).ids().combine_chunks())).as_py() or 0
    return done, len(keys), "samples"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Encode what the pool lacks; write `index.parquet` (where each sample's latent is) and `rejects.parquet`.

    Raises:
        SanaError: the disk cannot hold what is to be encoded.
        WorkerError: a worker died, and no clip was to blame, or too many were.
    """
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    num_encoded = encode_partition(context, inputs)
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    windows = _windows(context, inputs)
    pool = pool_of(context, model)
    pool.compact()
    index, rejected = _joined(windows, pool.rows())
    draft.add("index.parquet", to_parquet(index))
    draft.add("rejects.parquet", to_parquet(rejected))
    return draft.commit(
        content={split: content_digest(_split(index, split), _CONTENT) for split in ("train", "eval")},
        counts=count_rejects(value_counts(windows.column("dataset")), index.num_rows, rejected).with_extra(
            encoded=num_encoded
        ),
        facts=EncodeLatentsFacts(
            num_bytes=pc.sum(index.column("num_bytes")).as_py() or 0,
            train_samples=dict(sorted(value_counts(_split(index, "train").column("dataset")).items())),
        ),
    )


def encode_partition(context: Context, inputs: Mapping[str, Artifact], *, index: int = 0, count: int = 1) -> int:
    """Encode what the pool lacks, as machine `index` of `count`: its own parts first, then those of the others.

    Returns how many samples were to be encoded when it began. A worker that a clip kills is started again; what was
    open when it died is then decoded alone, and rejected as killed_worker when it kills once more.

    Raises:
        ValueError: not 0 <= index < count.
        SanaError: the disk cannot hold what is to be encoded.
        WorkerError: a worker died, and no clip was to blame, or too many were.
    """
    if not 0 <= index < count:
        raise ValueError(f"worker {index} of {count}: need an index from 0 to {count - 1}")
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    pool, windows = pool_of(context, model), _windows(context, inputs)
    resources = context.config.encode_latents.resources
    todo = _missing(windows, pool)
    if todo.num_rows:
        _check_space(context, todo)
        share = WorkerRange(
            num_ranks=resources.num_workers,
            first_worker=index * resources.num_workers,
            num_workers=count * resources.num_workers,
        )
        report = Summed(context.report, value_counts(todo.column("bucket")))

        def encode(crashes: CrashHistory) -> None:
            run_worker(
                context,
                EncodeLatentsSpec(PoolName(NAME, pool.key), source_of(model), share, crashes),
                todo=todo,
                num_processes=resources.num_workers,
                report=report,
                stall_timeout_s=resources.stall_timeout_s,
            )

        restart_on_crash(context, NAME, encode, num_processes=resources.num_workers)
    return todo.num_rows


def _windows(context: Context, inputs: Mapping[str, Artifact]) -> pa.Table:
    """Read bucket's windows, with their sample keys."""
    windows = read_table(context.store, inputs["bucket"], "clips.parquet")
    return windows.append_column("sample_key", sample_keys(windows))


def _missing(windows: pa.Table, pool: Pool) -> pa.Table:
    """Return the windows that the pool lacks, each content once, sorted by bucket, video and start."""
    known = pc.is_in(windows.column("sample_key"), pool.ids().combine_chunks())
    # windows of one video are neighbours, to be decoded in one pass over it; of equal contents the first by its path
    # is taken, by every worker the same
    video = [name for name in SAMPLE_KEY_COLUMNS if name not in ("bucket", "start_frame")]
    order = [(name, "ascending") for name in ("bucket", *video, "start_frame", "dataset", "path")]
    todo = windows.filter(pc.invert(known)).select(_TODO).sort_by(order).combine_chunks()
    keys = todo.column("sample_key")
    if todo.num_rows < 2:
        return todo
    repeated = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1)).combine_chunks()
    return todo.filter(pa.concat_arrays([pa.array([True]), pc.invert(repeated)]))


def _joined(windows: pa.Table, encoded: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the index of what was encoded, and what was rejected."""
    found = pc.index_in(windows.column("sample_key"), encoded.column("sample_key").combine_chunks())
    if found.null_count:
        raise SanaError(f"{NAME}: {found.null_count} of {len(found)} samples are not in the pool; run again")
    encoded = encoded.drop_columns(["sample_key"]).take(found)
    for name in encoded.column_names:
        windows = windows.drop_columns([name]) if name in windows.column_names else windows
        windows = windows.append_column(name, encoded.column(name))
    windows = windows.append_column("stage", pa.repeat(pa.scalar(NAME), windows.num_rows))
    good = pc.equal(windows.column("reason"), "")
    index = windows.filter(good).select(LATENT_INDEX.names).cast(LATENT_INDEX)
    rejected = windows.filter(pc.invert(good)).select(REJECTS.names).cast(REJECTS)
    return index, rejected


def _split(index: pa.Table, split: str) -> pa.Table:
    return index.filter(pc.equal(index.column("split"), split))


def _check_space(context: Context, todo: pa.Table) -> None:
    free = context.store.free_bytes()
    if free is None:
        return
    dtype = context.config.encode_latents.dtype
    need = sum(
        num * Bucket.parse(name).latent_bytes(dtype) for name, num in value_counts(todo.column("bucket")).items()
    )
    if need > free:
        raise SanaError(
            f"{NAME}: {todo.num_rows} samples need {need / 2**30:.2f} GiB at {context.store.root}, "
            f"{free / 2**30:.2f} GiB are free; make room, or choose another root"
        )
