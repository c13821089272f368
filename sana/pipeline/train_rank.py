"""One rank of the train stage, started by torchrun, srun or a Kubernetes job instead of by the stage itself.

Every rank resolves the same config against the same root and finds the same committed inputs, so no job is handed
over; rank 0 commits the artifact that the stage would.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sana.artifact import Artifact, Draft, Recipe, find
from sana.context import Context
from sana.errors import LeaseHeldError, RankLostError, SanaError
from sana.pipeline.observers import COMPLETED, FAILED, STOPPED, Committed, Observer, StageEnd, WorkStart
from sana.pipeline.plan import check_work_dir, inputs_of
from sana.pipeline.run import Run
from sana.progress import Progress
from sana.runtime.job import Job, read_job, write_job
from sana.runtime.launcher import EXIT_TRY_AGAIN
from sana.runtime.rendezvous import enter, rendezvous
from sana.runtime.specs import TrainSpec
from sana.runtime.worker_process import hide_text_models, hide_torchao
from sana.stages import train as stage
from sana.store_errors import StoreError, StoreFullError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ToldJob(Job[TrainSpec]):
    """A job whose progress the observers of its run hear too, as those of a stage do."""

    run: Run

    def report(self, progress: Progress) -> None:
        super().report(progress)
        self.run.observers.on_stage_progress(stage.NAME, progress)


def train_rank(
    context: Context,
    environ: Mapping[str, str],
    *,
    command: str,
    title: str = "",
    observers: Callable[[], Sequence[Observer]] = tuple,
) -> Artifact | None:
    """Train as one rank; returns the artifact on rank 0, or on all if it was there. `command` makes what is missing.

    Rank 0 tells the observers, which are made for it alone, of a run called `title`.

    Raises:
        SystemExit: 143 or 75 after a signal, with everything saved.
        SanaError: the environment does not say which rank this is, an input is missing, or what the stage raises.
    """
    found = rendezvous(environ)
    enter(found, os.environ)
    check_work_dir(context.work_dir)
    inputs = inputs_of(context, stage.NAME, command=command)
    recipe = stage.recipe(context, inputs)
    done = find(context.store, recipe)
    if done is not None:
        _log.info("train: %s is committed already", recipe.fingerprint)
        return done
    job_path = write_job(context.config, stage.spec_of(context, inputs, recipe))
    hide_torchao()
    hide_text_models(str(job_path))
    from sana.model.device import free_memory  # here: what is wrong above must not wait for torch
    from sana.workers.train import train

    rank, num_ranks = found.get("RANK", "0"), found.get("WORLD_SIZE", "1")
    names = f"{recipe.fingerprint}, trajectory {stage.trajectory_of(recipe)}"  # by which others name it
    _log.info("train: %s, rank %s of %s", names, rank, num_ranks)
    job = read_job(job_path, TrainSpec)
    if rank != "0":
        train(job)
        free_memory()
        return None
    with Run(context, title=title, observers=observers()) as run:
        return _told(run, recipe, inputs, lambda: _made(_ToldJob(**vars(job), run=run), train, free_memory, recipe))


def _made(
    job: _ToldJob, train: Callable[[Job[TrainSpec]], None], free_memory: Callable[[], None], recipe: Recipe
) -> Artifact:
    """Train, and commit the artifact."""
    draft = Draft(job.run.context.store, recipe)
    train(job)
    free_memory()  # the exports are checked by another process
    return stage.commit(job.run.context, draft, job.path)


def _told(run: Run, recipe: Recipe, inputs: Mapping[str, Artifact], make: Callable[[], Artifact]) -> Artifact:
    """Make the artifact, and tell the observers of the work as of that of a stage."""
    tell = run.observers.on_event
    tell(WorkStart(stage.NAME, recipe, inputs))
    try:
        made = make()
    except BaseException as error:
        tell(StageEnd(stage.NAME, FAILED if isinstance(error, Exception) else STOPPED, error))
        raise
    tell(Committed(stage.NAME, recipe, inputs, made, COMPLETED))
    tell(StageEnd(stage.NAME, COMPLETED))
    return made


def exit_code_of(error: SanaError) -> int:
    """Return the exit code by which a scheduler knows whether to start the ranks again."""
    if isinstance(error, StoreFullError):
        return 1
    return EXIT_TRY_AGAIN if isinstance(error, StoreError | RankLostError | LeaseHeldError) else 1
