"""Encode features: an image encoder's features of the frames that latents stand for, pooled by the window's content.

It is part of a run with `train.crepa` alone, and makes features of train samples alone. It stands before the other
encoders: a window that it cannot read is none of theirs either.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.context import Context
from sana.costs.features import feature_bytes
from sana.data.schemas import FEATURE_INDEX, FEATURES, SAMPLE_KEY_COLUMNS
from sana.data.tables import count_rejects, read_table, sample_keys
from sana.errors import SanaError
from sana.facts import EncodeFeaturesFacts
from sana.model.features.encoder_files import EncoderRef, resolve_encoder
from sana.progress import Continued, Summed
from sana.runtime.pool import Pool
from sana.runtime.specs import CrashHistory, EncodeFeaturesSpec, PoolName, WorkerRange
from sana.runtime.worker import restart_on_crash, run_worker
from sana.stages.bodies.pooled_tensors import PooledTensors
from sana.stages.bodies.window_views import content_of_windows

NAME, VERSION = "encode_features", 1
READS, GIVES = ("windows",), ("features", "windows")
_CONTENT = ("sample_id", "digest", "dtype", "shape")
_OF_VIDEO = tuple(name for name in SAMPLE_KEY_COLUMNS if name not in ("bucket", "start_frame"))


def is_used(config: Config) -> bool:
    """Where hidden states are aligned with features."""
    return config.train.crepa is not None


def _encoder(context: Context) -> EncoderRef:
    return resolve_encoder(context.config.encode_features, work_dir=context.work_dir, read_only=context.read_only)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the windows and the encoder; no VAE."""
    read = {"windows": inputs["windows"].content["windows"], "encoder": _encoder(context).digest}
    return Recipe(NAME, VERSION, context.config.encode_features.hashed(), read)


def pool_of(context: Context, encoder: EncoderRef) -> Pool:
    """The pool of features made by this encoder with these settings."""
    settings = {"version": VERSION, "encoder": encoder.digest, **context.config.encode_features.hashed()}
    return Pool(context.store, NAME, context.salted(digest_of(settings)[:16]), schema=FEATURES, id_column="sample_key")


def _tensors(context: Context, windows: pa.Table, encoder: EncoderRef) -> PooledTensors:
    wanted = windows.filter(pc.equal(windows.column("split"), "train"))
    return PooledTensors(
        stage=NAME,
        pool=pool_of(context, encoder),
        wanted=wanted.append_column("sample_key", sample_keys(wanted)),
        unit="samples",
        todo=("sample_key", "dataset", "path", *SAMPLE_KEY_COLUMNS),
        # as encode_latents: windows of one video are neighbours, and every machine takes the same of equal contents
        order=("bucket", *_OF_VIDEO, "start_frame", "dataset", "path"),
        index=FEATURE_INDEX,
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    windows = read_table(context.store, inputs["windows"], "clips.parquet")
    return _tensors(context, windows, _encoder(context)).remaining()


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Encode what the pool lacks; write `index.parquet`, `rejects.parquet` and `clips.parquet`, the windows left.

    Raises:
        SanaError: the disk cannot hold what is to be encoded.
        WorkerError: a worker died, and no clip was to blame, or too many were.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    encoder = _encoder(context)
    windows = read_table(context.store, inputs["windows"], "clips.parquet")
    tensors = _tensors(context, windows, encoder)
    made = tensors.make(draft, lambda todo: _encode(context, encoder, tensors, todo), may_reject=True)
    is_made = pc.is_in(windows.column("sample_id"), made.index.column("sample_id").combine_chunks())
    left = windows.filter(pc.or_(is_made, pc.equal(windows.column("split"), "eval")))
    draft.add("clips.parquet", to_parquet(left))
    counts = count_rejects(value_counts(windows.column("dataset")), left.num_rows, made.rejects)
    return draft.commit(
        content={**content_of_windows(left), "train": made.digest(_CONTENT, column="split", among=["train"])},
        counts=counts.with_extra(encoded=made.num_made),
        facts=EncodeFeaturesFacts(
            num_bytes=pc.sum(made.index.column("num_bytes")).as_py() or 0, hidden_size=encoder.sizes.hidden_size
        ),
    )


def _encode(context: Context, encoder: EncoderRef, tensors: PooledTensors, todo: pa.Table) -> None:
    _check_space(context, encoder, todo)
    resources = context.config.encode_features.resources
    workers = WorkerRange(num_ranks=resources.num_workers, first_worker=0, num_workers=resources.num_workers)
    report = Summed(Continued(context.report, tensors.num_wanted()), value_counts(todo.column("bucket")))

    def encode(crashes: CrashHistory) -> None:
        run_worker(
            context,
            EncodeFeaturesSpec(PoolName(NAME, tensors.pool.key), encoder.source, workers, crashes),
            todo=todo,
            num_processes=resources.num_workers,
            report=report,
            stall_timeout_s=resources.stall_timeout_s,
        )

    restart_on_crash(context, NAME, encode, num_processes=resources.num_workers)


def _check_space(context: Context, encoder: EncoderRef, todo: pa.Table) -> None:
    free = context.store.free_bytes()
    if free is None:
        return
    cell = context.config.encode_features.tokens_per_cell
    counts = value_counts(todo.column("bucket"))
    need = sum(num * feature_bytes(Bucket.parse(name), cell, encoder.sizes) for name, num in counts.items())
    if need > free:
        raise SanaError(
            f"{NAME}: {todo.num_rows} samples need {need / 2**30:.2f} GiB at {context.store.root}, "
            f"{free / 2**30:.2f} GiB are free; make room, raise encode_features.tokens_per_cell, or choose another root"
        )
