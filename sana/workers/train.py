"""`python -m sana.workers.train JOB`: train on a trajectory, then export the EMA weights; `sana train-worker` calls it.

Rank 0 writes a TrainResult beside the job at the end; the stage that started it commits the artifact.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import Thread
from typing import Any

from sana.artifact import Artifact, FileInfo
from sana.config.training.objective import CheckpointSampling, TimestepSampling
from sana.data.loading.loader import FEATURES, Reader, load_samples
from sana.data.shards.shard_check import check_samples
from sana.errors import SanaError
from sana.model.device import out_of_memory_explained
from sana.model.model_resolver import local_checkpoint
from sana.model.objective import load_flow_shift
from sana.progress import Progress
from sana.runtime.job import EXIT_INTERRUPTED, EXIT_TERMINATED, Job, run_worker
from sana.runtime.launcher import EXIT_TRY_AGAIN, result_path
from sana.runtime.specs import TrainSpec
from sana.store import Store
from sana.training.checkpoints.checkpoint import NothingToResumeError, newest_checkpoint
from sana.training.checkpoints.checkpoint_manager import CheckpointManager
from sana.training.checkpoints.lease import hold_lease
from sana.training.checkpoints.retries import PatientShardFiles
from sana.training.compute.blocks import prepare_blocks
from sana.training.compute.compiled_blocks import BlocksNotCompiledError
from sana.training.exports.finished import export_finished
from sana.training.exports.model_export import store_base
from sana.training.hooks.registry import hooks_of
from sana.training.initial_weights import InitialOptimizer, load_initial_optimizer, start_trainable
from sana.training.loop import REPORT_EVERY_S, Trainer
from sana.training.objectives.conditions import ConditionTable
from sana.training.objectives.masked_loss import LOSS_MASK
from sana.training.objectives.registry import build_objective
from sana.training.parallel.distributed import StopFlag, lost_rank_explained
from sana.training.parallel.heartbeat import Heartbeat
from sana.training.parallel.parallel import Parallel
from sana.training.regularizers.registry import build_regularizers
from sana.workers.reports.training import store_report

_NEEDS_LESS = (
    "train.resources.micro_batch_size=1, activation_memory=recompute_all, ema_device=cpu or offload.type=block_level "
    "there, or smaller buckets; sana calibrate CONFIG finds what fits"
)
_log = logging.getLogger(__name__)


@out_of_memory_explained(_NEEDS_LESS)
def train(job: Job[TrainSpec]) -> None:
    """Train, and export if max_steps was reached; it ends with a checkpoint when a signal came before.

    Raises:
        SystemExit: 143 after SIGTERM, 130 after Ctrl-C, 75 after SIGUSR1, by which a scheduler says that it will start
            the run again.
        RankLostError: another rank is gone.
    """
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(EXIT_TRY_AGAIN))  # there is nothing to save yet
    with lost_rank_explained(int(os.environ.get("WORLD_SIZE", "1"))):
        parallel = Parallel.open(job.config.train)
    heartbeat = Heartbeat(parallel.rank, parallel.num_ranks)
    try:
        with lost_rank_explained(parallel.num_ranks):
            _train(job, parallel)
    finally:
        heartbeat.stop()


def _train(job: Job[TrainSpec], parallel: Parallel) -> None:
    # several ranks may have been started again, on other machines, before the claim of those that are gone is old
    wait = parallel.num_ranks > 1
    # only rank 0 writes, so it alone holds the lease; if it cannot, the launcher ends the other ranks
    with hold_lease(job.open_store(), job.spec.trajectory, wait=wait) if parallel.is_main else nullcontext() as lease:
        check = lease.check if lease else _no_check
        trainer = build_trainer(job, parallel, check=check)
        signal.signal(signal.SIGTERM, lambda *_: trainer.stop.request(EXIT_TERMINATED))
        signal.signal(signal.SIGUSR1, lambda *_: trainer.stop.request(EXIT_TRY_AGAIN))
        if parallel.is_main:
            Thread(target=_store_base_early, args=(job, trainer), name="base", daemon=True).start()
        try:
            with _compilers_killed_by_signal(trainer.stop), _saved_by_interrupt(trainer.stop):
                finished = trainer.run()
        except NothingToResumeError:  # all checkpoints were damaged: they are removed by now
            trainer = build_trainer(job, parallel, check=check)
            with _compilers_killed_by_signal(trainer.stop), _saved_by_interrupt(trainer.stop):
                finished = trainer.run()
    if not finished:
        parallel.finish()  # what starts the ranks may kill the others once one has left, and rank 0 commits last
        name = {EXIT_TRY_AGAIN: "SIGUSR1", EXIT_INTERRUPTED: "SIGINT"}.get(trainer.stop.exit_code, "SIGTERM")
        _log.info("%s: stopped after step %d, which is saved", name, trainer.state.step)
        raise SystemExit(trainer.stop.exit_code)
    if trainer.ends_early:
        _log.info("early stopping: ended after step %d of %d", trainer.state.step, job.config.train.max_steps)
    trainer.say("exporting the model")
    result = export_finished(job, trainer, parallel)
    if result is not None:
        files = dict(sorted({**result.files, **_report(job, trainer)}.items()))
        result_path(job.path).write_bytes(replace(result, files=files).to_json())
    parallel.finish()


def _report(job: Job[TrainSpec], trainer: Trainer) -> dict[str, FileInfo]:
    """Store what the run says of its samples; returns the files by name. Rank 0 only."""
    assert trainer.state.ledger is not None  # a trainer has one
    return store_report(
        trainer.checkpoints.store,
        f"train/{job.spec.fingerprint}/{trainer.checkpoints.attempt}",
        trainer.state.ledger,
        config=job.config.train,
        latents=job.spec.latents,
        buckets=trainer.samples.buckets,
        flow_shift=_flow_shift(job.config.train.timestep_sampling, job),
    )


def _store_base_early(job: Job[TrainSpec], trainer: Trainer) -> None:
    """Store what the export shares with the base model beside the first steps; the export itself makes sure of it."""
    component = trainer.trainable.component
    if not component and not job.config.train.resources.export_merged:
        return  # the export is of what learned alone
    base = local_checkpoint(job.spec.model.path, revision=job.spec.model.revision)
    try:
        store_base(trainer.checkpoints.store, base, without=component or "transformer", work_dir=job.work_dir)
    except (OSError, SanaError) as error:
        _log.warning("the base model's files are not stored yet, which the export tries again: %s", error)


@contextmanager
def _compilers_killed_by_signal(stop: StopFlag) -> Iterator[None]:
    """End as a signal asks where it also killed the compilers: a scheduler's goes to all processes of a job."""
    try:
        yield
    except BlocksNotCompiledError as error:
        if not stop.requested:
            raise
        _log.warning("a signal came while blocks were compiled; what was saved before is kept")
        raise SystemExit(stop.requested) from error


@contextmanager
def _saved_by_interrupt(stop: StopFlag) -> Iterator[None]:
    """While training runs, Ctrl-C asks for an end at this step, saved: the command would else drop what is unsaved."""

    def ask(*_: object) -> None:
        if not stop.requested:
            os.write(2, b"Ctrl-C: ends after this step, which is saved first; Ctrl-\\ ends at once, unsaved\n")
        stop.request(EXIT_INTERRUPTED)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _no_check() -> None:
    """Check nothing: ranks that write nothing hold no lease."""


def build_trainer(job: Job[TrainSpec], parallel: Parallel, *, check: Callable[[], None] = _no_check) -> Trainer:
    """Build the trainer of a job; `check` raises when the lease on the trajectory is lost.

    Raises:
        DamagedSampleError: a stored sample of either split is missing, truncated or not what the index says.
    """
    config, spec, store = job.config, job.spec, job.open_store()
    latents, captions = spec.latents, spec.captions
    max_steps = config.train.max_steps
    if parallel.is_main:
        job.report(Progress(0, max_steps, "steps", phase="loading the model"))
        # the export needs every file: better to find one missing now than in a week
        local_checkpoint(spec.model.path, revision=spec.model.revision)
    newest = newest_checkpoint(store, spec.trajectory, at_most=max_steps) if parallel.is_main else None
    (resumes,) = parallel.broadcast([newest is not None])
    trainable = start_trainable(store, spec.model, spec.initial, config.train, resumes=resumes)
    transformer: Any = trainable.model
    samples = load_samples(
        store, latents, captions, "train", draws_per_epoch=spec.draws_per_epoch, others=_further_tensors(spec)
    )
    regularizers = build_regularizers(config.train, trainable, feature_size=samples.tensor_size(FEATURES))
    eval_samples = load_samples(store, latents, captions, "eval")
    if parallel.is_main:
        width = int(transformer.config.caption_channels)
        check_samples(store, [samples, eval_samples], caption_channels=width, on_shard=_check_progress(job))
        job.report(Progress(0, max_steps, "steps", phase="preparing the first batch"))
    compute = prepare_blocks(
        transformer, config.with_any_conditions.train, parallel, buckets=samples.buckets, work_dir=job.work_dir
    )
    resources = config.train.resources
    files = PatientShardFiles.configured(store, resources, work_dir=job.work_dir)
    trainer = Trainer(
        config,
        parallel,
        trainable,
        build_objective(
            config.train,
            flow_shift=_flow_shift(config.train.timestep_sampling, job),
            conditions=ConditionTable.of(config, samples),
            regularizers=regularizers,
            most=parallel.largest if parallel.is_sharded else None,
        ),
        reader=Reader(files, samples, verify=resources.verify_checksums),
        eval_reader=Reader(files, eval_samples, verify=resources.verify_checksums),
        checkpoints=_checkpoints(job, store, parallel, check),
        report=job.report,
        compute=compute,
        hooks=hooks_of(job, store),
    )
    trainer.must_resume = resumes
    if spec.initial is not None and spec.initial.optimizer and not resumes:
        _go_on_with(load_initial_optimizer(store, spec.initial, trainer.state.optimizer.state()), trainer, parallel)
    return trainer


def _checkpoints(job: Job[TrainSpec], store: Store, parallel: Parallel, check: Callable[[], None]) -> CheckpointManager:
    spec = job.spec
    return CheckpointManager(
        store,
        spec.trajectory,
        folder=job.work_dir / "train" / spec.trajectory,
        config=job.config.train,
        snapshot={"encode_latents": dict(spec.latents.content), "encode_captions": dict(spec.captions.content)},
        keep_steps=spec.keep_steps,
        check=check,
        rank=parallel.rank,
        num_ranks=parallel.num_ranks,
    )


def _further_tensors(spec: TrainSpec) -> Mapping[str, Artifact]:
    """Return what is read of each train sample beside its latents and a caption, by the tensor's name."""
    found = {LOSS_MASK: spec.masks, FEATURES: spec.features}
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def _go_on_with(optimizer: InitialOptimizer, trainer: Trainer, parallel: Parallel) -> None:
    """Give the trainer an earlier run's optimizer. Collective."""
    state = trainer.state
    parallel.scatter({"optimizer": optimizer.tensors}, {"optimizer": state.optimizer.state()})
    state.optimizer_steps_before = trainer.checkpoints.optimizer_steps_before = optimizer.num_steps


def _check_progress(job: Job[TrainSpec]) -> Callable[[int, int], None]:
    """Return a callback that reports the check of the shards, so that it does not look like a trainer that hangs."""
    last = time.perf_counter()

    def on_shard(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > REPORT_EVERY_S:
            last = time.perf_counter()
            phase = f"checking shard {done} of {total}"
            job.report(Progress(0, job.config.train.max_steps, "steps", phase=phase))

    return on_shard


def _flow_shift(sampling: TimestepSampling, job: Job[TrainSpec]) -> float:
    if isinstance(sampling, CheckpointSampling):
        return load_flow_shift(job.spec.model.path, revision=job.spec.model.revision)
    return sampling.shift


if __name__ == "__main__":
    run_worker(train, TrainSpec)
