"""What a finished training leaves: its exports, and what the trained model computes of a fixed batch."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sana.artifact import digest_of
from sana.runtime.job import Job
from sana.runtime.results import TrainResult, WeightsDigests
from sana.runtime.specs import TrainSpec
from sana.training.checkpoints.checkpoint import index_key
from sana.training.checkpoints.checkpoint_io import load_weights, weights_digest
from sana.training.exports.exports import export_all
from sana.training.exports.fixed_batch import STRICT_VELOCITY, VELOCITY, computing_in, fixed_batch, velocity_of
from sana.training.loop import Trainer
from sana.training.parallel.parallel import Parallel
from sana.training.regularizers.projector import without_projector
from sana.training.trainables.registry import trained_transformer

_log = logging.getLogger(__name__)


def export_finished(job: Job[TrainSpec], trainer: Trainer, parallel: Parallel) -> TrainResult | None:
    """Export the EMA weights to the store; returns the job's result on rank 0. Collective.

    The model has these weights afterwards.
    """
    live, ema = (without_projector(weights) for weights in _weights_to_export(trainer, parallel))
    result = _export(job, trainer, live=live, ema=ema) if parallel.is_main else None
    if job.config.train.resources.check_exports:
        trainer.say("what exports are compared with")
        _write_reference(job, trainer, parallel, ema)
    return result


def reference_path(job_path: Path) -> Path:
    """File of a fixed batch and the velocity that the trained model predicts of it."""
    return job_path.with_suffix(".reference.safetensors")


def _weights_to_export(trainer: Trainer, parallel: Parallel) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return live and EMA weights of the step that is exported, whole on rank 0. Collective."""
    step = _exported_step(trainer)
    if step == trainer.state.step:
        parts = trainer.state.parts()
        return parallel.gather(parts["weights"]), parallel.gather(parts["ema"])
    if not parallel.is_main:
        return {}, {}
    manager = trainer.checkpoints
    _log.info("early stopping: step %d has the lowest eval loss, and is exported", step)
    live, ema = (load_weights(manager.store, manager.key, step, which=which) for which in ("live", "ema"))
    return live, ema


def _exported_step(trainer: Trainer) -> int:
    early = trainer.eval_loss.early_stopping
    best = early.best_step if early is not None and early.config.export == "best" else None
    return trainer.state.step if best is None else best


def _export(
    job: Job[TrainSpec], trainer: Trainer, *, live: Mapping[str, Tensor], ema: Mapping[str, Tensor]
) -> TrainResult:
    checkpoints, state, resources = trainer.checkpoints, trainer.state, job.config.train.resources
    saved = checkpoints.newest
    assert saved is not None and saved.step == state.step  # run() saved the last step
    step = _exported_step(trainer)
    model = f"train/{job.spec.fingerprint}/{checkpoints.attempt}/model"
    exports = export_all(
        checkpoints.store,
        model,
        trainer.trainable,
        ema,
        model=job.spec.model,
        work_dir=job.work_dir,
        merged=resources.export_merged,
    )
    live_digest, ema_digest = weights_digest(live), weights_digest(ema)
    return TrainResult(
        step=step,
        trajectory=checkpoints.key,
        checkpoint=index_key(checkpoints.key, step),
        num_samples=len(trainer.samples),
        model=model,
        files=exports.files,
        weights=WeightsDigests(live_digest, ema_digest),
        weights_digest=digest_of({"live": live_digest, "ema": ema_digest}),
        metrics=tuple(segment.key for segment in saved.segments),
        metrics_path=str(checkpoints.metrics.path),
        reference=str(reference_path(job.path)) if resources.check_exports else "",
        num_ranks=trainer.parallel.num_ranks,
        not_exported=exports.not_exported,
    )


def _write_reference(job: Job[TrainSpec], trainer: Trainer, parallel: Parallel, weights: Mapping[str, Tensor]) -> None:
    """Give the trained model the weights that are exported, and write what it computes of a fixed batch. Collective."""
    parts = trainer.state.parts()
    averaged = without_projector(parts["ema"])
    into = {name: tensor for name, tensor in parts["weights"].items() if name in averaged}
    parallel.scatter({"weights": weights} if parallel.is_main else None, {"weights": into})
    model: Any = trainer.trainable.model
    batch = fixed_batch(int(model.config.caption_channels))
    velocities = {VELOCITY: velocity_of(model, batch, parallel.device, parallel.autocast())}
    if parallel.is_main:
        if job.config.train.weights_dtype == "fp32" or job.config.train.method.name != "full":
            velocities[STRICT_VELOCITY] = _strict_velocity(job, batch, weights)
        save_file({**batch, **velocities}, reference_path(job.path))


def _strict_velocity(job: Job[TrainSpec], batch: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """Return what the trained weights predict in strict float32: beside the base's own weights, which training rounds.

    On the CPU, beside which a GPU has no room for another model.
    """
    cpu = torch.device("cpu")
    config = job.config.train.model_copy(update={"base_weights": "plain"})
    model = trained_transformer(job.spec.model, config, weights, dtype=torch.float32)
    return velocity_of(model, batch, cpu, computing_in("fp32", cpu))
