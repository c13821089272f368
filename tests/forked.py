"""Stages and workers in processes that start at once: forked from a server that has imported torch and never used it.

A fresh interpreter spends ten seconds on its imports, which a test of twenty kills cannot afford.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import sana.stages.bucket  # used by the children, so imported in the server
import sana.stages.encode_latents
import sana.stages.probe
import sana.workers.encode_latents
import sana.workers.train  # noqa: F401
from sana.pipeline.graph import stage
from sana.pipeline.plan import inputs_of
from sana.runtime.job import Job, read_job, run_worker
from sana.runtime.launcher import WorkerKilledError
from tests.pipeline_runs import ROOT, Place, inline_workers, run_alone, spec_of

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.forked"])


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `target(*arguments)` in a process of its own; both must be picklable."""
    with pytest.MonkeyPatch.context() as patch:  # the server is started by the first process, and must find `tests`
        patch.setenv("PYTHONPATH", str(ROOT))
        process = _context.Process(target=_run, args=(dict(os.environ), target, *arguments), daemon=True)
        process.start()
    return process


def _run(environ: dict[str, str], target: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(environ)  # the server has that of its start
    target(*arguments)


def one_stage(place: Place, name: str, marker: Path, *overrides: str) -> None:
    """Run one stage whose inputs are committed, and its worker, in this process; `marker` is created when it begins."""
    context = place.context(*overrides)
    inputs = inputs_of(context, name)
    marker.touch()
    with inline_workers():
        run_alone(stage(name), context, inputs)


def start_ranks(body: Callable[[Job[Any]], None], job: Job[Any], num_ranks: int) -> list[BaseProcess]:
    """Start a worker's body on so many ranks, each a process with the environment that the launcher gives its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(num_ranks)] if num_ranks > 1 else [{}]
    return [start(_rank, {name: str(value) for name, value in rank.items()}, body, job.path) for rank in ranks]


def _rank(environ: dict[str, str], body: Callable[[Job[Any]], None], job_path: Path) -> None:
    os.environ.update(environ)
    run_worker(body, spec_of(body), [str(job_path)])


def train_and_die(place: Place, step: int, *overrides: str) -> None:
    """Run the train stage in this process, which kills itself once a checkpoint of that step is committed."""
    from sana.training.checkpoints.checkpoint_manager import CheckpointManager

    save = CheckpointManager.save

    def save_and_die(self: CheckpointManager, state: Any, *others: Any, **named: Any) -> None:
        save(self, state, *others, **named)
        if state.step == step:
            self.finish()
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointManager.save = save_and_die  # type: ignore[method-assign]
    one_stage(place, "train", place.folder / "began", *overrides)


@contextmanager
def forked_workers(before: Callable[[], None] | None = None) -> Iterator[list[int]]:
    """Run workers as forked processes, as many as the stage asks for; `before` is called in each of them first.

    Yields a list that grows by the number of processes of each launch.
    """
    launches: list[int] = []

    def launch(module: str, job_path: Path, *, num_processes: int, **_: object) -> None:
        launches.append(num_processes)
        ranks = [start(_work, before, module, job_path, rank) for rank in range(num_processes)]
        while any(rank.exitcode is None for rank in ranks) and not any(rank.exitcode for rank in ranks):
            time.sleep(0.01)
        failed = tuple(number for number, rank in enumerate(ranks) if rank.exitcode)
        codes = [ranks[number].exitcode for number in failed]
        for rank in ranks:
            rank.kill()
            rank.join()
        if failed:
            assert all(code == -signal.SIGSEGV for code in codes), codes
            error = WorkerKilledError(f"{module} died")
            error.ranks = failed
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sana.runtime.worker.launch", launch)
        yield launches


def _work(before: Callable[[], None] | None, module: str, job_path: Path, rank: int) -> None:
    os.environ["RANK"] = str(rank)
    if before is not None:
        before()
    work = importlib.import_module(module).encode
    work(read_job(job_path, spec_of(work)))
