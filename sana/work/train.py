"""`python -m sana.work.train JOB`: train along a trajectory, then export what was learned. Runs under torchrun too.

spec: {"trajectory": key, "fingerprint": of the train artifact, "model_path": hub id or local folder in diffusers
layout, "model_revision": str or null, "keep_steps": [steps of checkpoints that committed artifacts refer to],
"passes": {data set: how often it stands in an epoch} of those that do not stand in it once}
artifacts: encode_latents, encode_captions.

Rank 0 writes `<job>.result.json` at the end; the stage that started us commits it as an artifact:
{"step", "trajectory", "checkpoint": key of its index, "num_samples": train rows,
"model": key of the exported folder, "files": [{"name", "key", "num_bytes", "digest"}] of the export,
"weights": {"live": digest, "ema": digest}, "weights_digest": of both,
"metrics": [keys of all metrics segments, in order], "metrics_path": local file with the same rows}
"""

import sana.work.start  # noqa: F401 - first of all

# isort: split
import hashlib
import json
import logging
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sana.artifact import FileInfo, digest_of
from sana.config.objective import CheckpointSampling, TimestepSampling
from sana.data.loader import Reader, load_samples
from sana.data.shard_cache import ShardFiles
from sana.data.shard_check import check_samples
from sana.model.pipeline import load_flow_shift, local_checkpoint
from sana.model.transformer import load_transformer
from sana.progress import Progress
from sana.store import Store
from sana.training.lease import held
from sana.training.loop import SIGN_OF_LIFE_S, Trainer
from sana.training.objectives.registry import build_objective
from sana.training.parallel import Parallel
from sana.training.tensors import weights_digest
from sana.training.trainable import FullTransformer
from sana.training.trajectory import Trajectory
from sana.work.job import EXIT_TERMINATED, Job, run_worker

_log = logging.getLogger(__name__)


def train(job: Job) -> None:
    """Train, and export if max_steps was reached; SystemExit 143 when SIGTERM came before."""
    parallel = Parallel.open(job.config.train)
    # rank 0 writes, so it alone holds the lease; if it cannot, the launcher ends the other ranks
    with held(job.open_store(), job.spec["trajectory"]) if parallel.is_main else nullcontext() as lease:
        trainer = build_trainer(job, parallel, check=lease.check if lease else _not_asked)
        signal.signal(signal.SIGTERM, lambda *_: trainer.stop.request())
        finished = trainer.run()
    if not finished:
        _log.info("SIGTERM: stopped after step %d, which is saved", trainer.state.step)
        raise SystemExit(EXIT_TERMINATED)
    if parallel.is_main:
        result = export(job, trainer)
        job.path.with_suffix(".result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    parallel.end()


def _not_asked() -> None:
    """Ranks that write nothing hold no lease."""


def build_trainer(job: Job, parallel: Parallel, *, check: Callable[[], None] = _not_asked) -> Trainer:
    """Put a trainer together from a job; `check` raises when the lease on the trajectory was lost.

    Raises:
        DamagedSampleError: a stored sample of either split is missing, truncated or not what the index says.
    """
    config, store = job.config, job.open_store()
    latents, captions = job.artifacts["encode_latents"], job.artifacts["encode_captions"]
    if parallel.is_main:  # the export needs all of it: better to miss a file now than in a week
        local_checkpoint(job.spec["model_path"], revision=job.spec["model_revision"])
    transformer = load_transformer(
        job.spec["model_path"],
        revision=job.spec["model_revision"],
        gradient_checkpointing=config.train.resources.gradient_checkpointing,
    )
    samples = load_samples(store, latents, captions, "train", passes=job.spec["passes"])
    eval_samples = load_samples(store, latents, captions, "eval")
    if parallel.is_main:
        width = int(transformer.config.caption_channels)
        check_samples(store, [samples, eval_samples], caption_channels=width, on_shard=_sign_of_life(job))
    resources = config.train.resources
    files = ShardFiles.configured(store, resources, work_dir=job.work_dir)
    return Trainer(
        config,
        parallel,
        FullTransformer(transformer),
        build_objective(config.train, flow_shift=_flow_shift(config.train.timestep_sampling, job)),
        reader=Reader(files, samples, verify=resources.verify_checksums),
        eval_reader=Reader(files, eval_samples, verify=resources.verify_checksums),
        trajectory=Trajectory(
            store,
            job.spec["trajectory"],
            folder=job.work_dir / "train" / job.spec["trajectory"],
            config=config.train,
            snapshot={"encode_latents": dict(latents.content), "encode_captions": dict(captions.content)},
            keep_steps=job.spec["keep_steps"],
            check=check,
        ),
        report=job.report,
    )


def _sign_of_life(job: Job) -> Callable[[int, int], None]:
    """Report how far the check of the samples is, now and then: it must not look like a trainer that hangs."""
    last = time.perf_counter()

    def on_shard(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > SIGN_OF_LIFE_S:
            last = time.perf_counter()
            job.report(Progress(0, job.config.train.max_steps, "steps", f"checked {done} of {total} shards"))

    return on_shard


def _flow_shift(sampling: TimestepSampling, job: Job) -> float:
    if isinstance(sampling, CheckpointSampling):
        return load_flow_shift(job.spec["model_path"], revision=job.spec["model_revision"])
    return sampling.shift


def export(job: Job, trainer: Trainer) -> dict[str, Any]:
    """Write the averaged weights as a diffusers checkpoint to the store, and return the job's result."""
    trajectory, state = trainer.trajectory, trainer.state
    saved = trajectory.newest
    assert saved is not None and saved.step == state.step  # run() saved the last step
    folder = trajectory.folder / "export"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    with state.ema.swapped_in():
        base = local_checkpoint(job.spec["model_path"], revision=job.spec["model_revision"])
        trainer.trainable.export(base, folder)
    model = f"train/{job.spec['fingerprint']}/{trajectory.attempt}/model"
    files = _upload(trajectory.store, folder, model)
    shutil.rmtree(folder)
    parts = state.parts()
    weights = {"live": weights_digest(parts["weights"]), "ema": weights_digest(parts["ema"])}
    return {
        "step": state.step,
        "trajectory": trajectory.key,
        "checkpoint": saved.key,
        "num_samples": len(trainer.samples),
        "model": model,
        "files": [{"name": name, **asdict(info)} for name, info in files.items()],
        "weights": weights,
        "weights_digest": digest_of(weights),
        "metrics": [segment.key for segment in saved.segments],
        "metrics_path": str(trajectory.metrics.path),
    }


def _upload(store: Store, folder: Path, prefix: str) -> dict[str, FileInfo]:
    """Store a folder's files under `prefix`, by name `model/...`; digests as `artifact.Draft` makes them."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        store.put_file_if_absent(f"{prefix}/{name}", path)
        files[f"model/{name}"] = FileInfo(f"{prefix}/{name}", path.stat().st_size, digest)
    return files


if __name__ == "__main__":
    run_worker(train)
