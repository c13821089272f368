"""`python -m sana.workers.commands.validate JOB`: the videos of validation, of one checkpoint, on any machine."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sana.model.device import out_of_memory_explained
from sana.progress import PreviewReady, Progress
from sana.runtime.command_specs import ValidateSpec
from sana.runtime.job import Job, run_worker
from sana.runtime.launcher import result_path
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.initial_weights import start_trainable
from sana.training.parallel.parallel import Parallel
from sana.training.validation import record as kept
from sana.training.validation.maker import Maker
from sana.training.validation.shots import Library, Shot, Weights, shot_list
from sana.training.validation.work import RankWork


@out_of_memory_explained("train.validation.vae_tiling=always, fewer frames in train.validation.buckets")
def validate(job: Job[ValidateSpec]) -> None:
    """Make the videos as training does between two steps, with the same bits on one device type."""
    config, spec, store = job.config, job.spec, job.open_store()
    started, (trajectory, step) = time.monotonic(), (spec.checkpoint.trajectory, spec.checkpoint.step)
    library = Library.read(store, spec.captions, config)
    shots = shot_list(config, library, step=step)
    if kept.state_of(store, trajectory, step, shots.digest) == kept.RESULT:
        there = kept.read(store, f"{kept.folder_of(trajectory, step, shots.digest)}/{kept.RESULT}")
        result_path(job.path).write_bytes(there.to_json())
        return
    total = len(shots.shots) * shots.num_inference_steps
    job.report(Progress(0, total, "sampler steps", phase="loading the model"))
    parallel = Parallel.open(config.train)
    trainable = start_trainable(store, spec.model, spec.initial, config.train, resumes=step > 0)
    trainable.model.requires_grad_(False).eval()
    parallel.place(trainable.model)
    num_videos = 0

    def on_step(what: str, done: int, of: int) -> None:
        nonlocal num_videos
        if what.startswith("decoding"):
            job.report(Progress(total, total, "sampler steps", phase=f"{what} {done} of {of}"))
            return
        job.report(Progress(num_videos * of + done, total, "sampler steps", what.partition(",")[0]))
        num_videos += done == of

    def on_preview(shot: Shot, done: int, of: int, path: Path) -> None:
        told = PreviewReady(step, shot.name, done, of, str(path))
        job.report(Progress(num_videos * of + done, total, "sampler steps", shot.name, happened=(told,)))

    @contextmanager
    def with_weights(which: Weights) -> Iterator[None]:
        if step > 0:
            trainable.load(load_weights(store, trajectory, step, which=which))
        yield

    work = RankWork(Maker(config, spec.model, library, store, spec.latents), parallel, shots, trajectory, step)
    weights: dict[Weights, Callable[[], AbstractContextManager[object]]]
    weights = {"live": lambda: with_weights("live"), "ema": lambda: with_weights("ema")}
    for _ in work.rounds(trainable.model, weights, on_step, on_preview):
        pass
    made = work.record(work.made, time.monotonic() - started)
    kept.end(store, made)
    result_path(job.path).write_bytes(made.to_json())


if __name__ == "__main__":
    run_worker(validate, ValidateSpec)
