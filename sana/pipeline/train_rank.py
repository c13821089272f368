"""One rank of the train stage, started by torchrun, srun or a Kubernetes job instead of by the stage itself.

Every rank resolves the same config against the same root and finds the same committed inputs, so no job is handed
over; rank 0 commits the artifact that the stage would.
"""

import logging
import os
from collections.abc import Mapping

from sana.artifact import Artifact, Draft, find
from sana.context import Context
from sana.errors import LeaseHeldError, RankLostError, SanaError
from sana.pipeline.plan import check_work_dir, inputs_of
from sana.runtime.job import read_job, write_job
from sana.runtime.launcher import EXIT_TRY_AGAIN
from sana.runtime.rendezvous import enter, rendezvous
from sana.runtime.specs import TrainSpec
from sana.runtime.worker_process import hide_text_models, hide_torchao
from sana.stages import train as stage
from sana.store_errors import StoreError, StoreFullError

_log = logging.getLogger(__name__)


def train_rank(context: Context, environ: Mapping[str, str], *, command: str) -> Artifact | None:
    """Train as one rank; returns the artifact on rank 0, or on all if it was there. `command` makes what is missing.

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
    draft = Draft(context.store, recipe)
    job_path = write_job(context.config, stage.spec_of(context, inputs, recipe))
    hide_torchao()
    hide_text_models(str(job_path))
    from sana.model.device import free_memory  # here: what is wrong above must not wait for torch
    from sana.workers.train import train

    rank, num_ranks = found.get("RANK", "0"), found.get("WORLD_SIZE", "1")
    names = (
        f"{recipe.fingerprint}, trajectory {stage.trajectory_of(recipe)}"  # by which `sana watch` finds it meanwhile
    )
    _log.info("train: %s, rank %s of %s", names, rank, num_ranks)
    train(read_job(job_path, TrainSpec))
    free_memory()  # the exports are checked by another process
    return stage.commit(context, draft, job_path) if found.get("RANK", "0") == "0" else None


def exit_code_of(error: SanaError) -> int:
    """Return the exit code by which a scheduler knows whether to start the ranks again."""
    if isinstance(error, StoreFullError):
        return 1
    return EXIT_TRY_AGAIN if isinstance(error, StoreError | RankLostError | LeaseHeldError) else 1
