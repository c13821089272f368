"""Encode latents: one normalised Wan VAE latent per clip window, pooled by the window's content."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.bucket import Bucket
from sana.context import Context
from sana.counts import Counts
from sana.data.schemas import LATENT_INDEX, LATENTS, SAMPLE_KEY_COLUMNS
from sana.data.tables import count_rejects, read_table, sample_keys
from sana.errors import SanaError
from sana.facts import EncodeLatentsFacts
from sana.model.model_resolver import ModelRef, resolve_model, source_of
from sana.progress import Continued, Summed
from sana.runtime.pool import Pool
from sana.runtime.specs import CrashHistory, EncodeLatentsSpec, PoolName, WorkerRange
from sana.runtime.worker import restart_on_crash, run_worker
from sana.stages.bodies.pooled_tensors import PooledTensors

NAME = "encode_latents"
VERSION = 4
READS = ("windows",)
GIVES = ("latents",)
_CONTENT = ("sample_id", "clip_id", "dataset", "bucket", "draws_per_epoch", "digest", "dtype", "shape")

_OF_VIDEO = tuple(name for name in SAMPLE_KEY_COLUMNS if name not in ("bucket", "start_frame"))


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the windows and the VAE; no caption."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return Recipe(
        NAME,
        VERSION,
        context.config.encode_latents.hashed(),
        {"windows": inputs["windows"].content["windows"], "vae": model.digests["vae"]},
    )


def pool_of(context: Context, model: ModelRef) -> Pool:
    """The pool of latents made by this VAE with these settings."""
    settings = {"version": VERSION, "vae": model.digests["vae"], **context.config.encode_latents.hashed()}
    return Pool(context.store, NAME, context.salted(digest_of(settings)[:16]), schema=LATENTS, id_column="sample_key")


def _tensors(context: Context, inputs: Mapping[str, Artifact], model: ModelRef) -> PooledTensors:
    windows = read_table(context.store, inputs["windows"], "clips.parquet")
    return PooledTensors(
        stage=NAME,
        pool=pool_of(context, model),
        wanted=windows.append_column("sample_key", sample_keys(windows)),
        unit="samples",
        todo=("sample_key", "dataset", "path", *SAMPLE_KEY_COLUMNS),
        # windows of one video are neighbours, to be decoded in one pass over it; of equal contents the first by path
        # is taken, by every machine the same
        order=("bucket", *_OF_VIDEO, "start_frame", "dataset", "path"),
        index=LATENT_INDEX,
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return _tensors(context, inputs, model).remaining()


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Encode what the pool lacks; write `index.parquet` (where each sample's latent is) and `rejects.parquet`.

    Raises:
        SanaError: the disk cannot hold what is to be encoded.
        WorkerError: a worker died, and no clip was to blame, or too many were.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    tensors = _tensors(context, inputs, model)
    made = tensors.make(draft, lambda todo: _encode(context, model, tensors, todo), may_reject=True)
    num_in = value_counts(tensors.wanted.column("dataset"))
    return draft.commit(
        content={split: made.digest(_CONTENT, column="split", among=[split]) for split in ("train", "eval")},
        counts=count_rejects(num_in, made.index.num_rows, made.rejects).with_extra(encoded=made.num_made),
        facts=EncodeLatentsFacts(
            num_bytes=pc.sum(made.index.column("num_bytes")).as_py() or 0,
            train_samples=dict(sorted(value_counts(made.of("split", ["train"]).column("dataset")).items())),
        ),
    )


@dataclass(frozen=True)
class Pooled:
    """What of a run's samples is in the pool by now, of how many, and where the pool is, relative to the root."""

    counts: Counts
    num_wanted: int
    folder: str


def pooled(context: Context, inputs: Mapping[str, Artifact]) -> Pooled:
    """Return what is encoded or rejected by now, by whatever machine."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    tensors = _tensors(context, inputs, model)
    return Pooled(tensors.so_far(), tensors.num_wanted(), tensors.pool.folder)


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
    tensors = _tensors(context, inputs, model)
    todo = tensors.missing()
    if todo.num_rows:
        _encode(context, model, tensors, todo, index=index, count=count)
    return int(todo.num_rows)


def _encode(
    context: Context, model: ModelRef, tensors: PooledTensors, todo: pa.Table, *, index: int = 0, count: int = 1
) -> None:
    """Encode these windows in workers, those of machine `index` of `count`."""
    _check_space(context, todo)
    resources = context.config.encode_latents.resources
    partition = WorkerRange(
        num_ranks=resources.num_workers,
        first_worker=index * resources.num_workers,
        num_workers=count * resources.num_workers,
    )
    report = Summed(Continued(context.report, tensors.num_wanted()), value_counts(todo.column("bucket")))

    def encode(crashes: CrashHistory) -> None:
        run_worker(
            context,
            EncodeLatentsSpec(PoolName(NAME, tensors.pool.key), source_of(model), partition, crashes),
            todo=todo,
            num_processes=resources.num_workers,
            report=report,
            stall_timeout_s=resources.stall_timeout_s,
        )

    restart_on_crash(context, NAME, encode, num_processes=resources.num_workers)


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
