"""Start the child process that does a stage's heavy work: models are loaded in it, never in the flow."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from sana.context import Context
from sana.progress import Progress, Report
from sana.runtime.crash_journal import Quarantine, open_at_crash
from sana.runtime.job import rank_journal, todo_path, write_job
from sana.runtime.launcher import WorkerKilledError, launch
from sana.runtime.specs import CrashHistory, Spec

MAX_RESTARTS = 50  # of the workers of one stage: two for each clip that kills

log = logging.getLogger(__name__)


def run_worker(
    context: Context,
    spec: Spec,
    *,
    todo: pa.Table | None = None,
    num_processes: int = 1,
    lock: str | None = None,
    report: Report | None = None,
    stall_timeout_s: float | None = None,
) -> Path:
    """Run the worker of this spec to its end and return its job file, beside which it left its results.

    `todo` are the rows it works on. `lock` names work that only one process of this machine may do at a time.
    `report` is given its progress instead of the context's.

    Raises:
        SanaError: the worker's own message.
        WorkerError: the worker crashed; names its log.
    """
    report = report or context.report
    job_path = write_job(context.config, spec, todo)
    report(Progress(0, 0, "", phase="starting a process"))  # of which the imports take seconds
    (context.work_dir / "logs").mkdir(parents=True, exist_ok=True)
    (context.work_dir / "locks").mkdir(parents=True, exist_ok=True)
    try:
        launch(
            spec.module(),
            job_path,
            num_processes=num_processes,
            log_path=context.work_dir / "logs" / f"{job_path.stem}.log",
            lock_path=context.work_dir / "locks" / f"{lock}.lock" if lock else None,
            report=report,
            stall_timeout_s=stall_timeout_s,
        )
    finally:
        todo_path(job_path).unlink(missing_ok=True)
    return job_path


def restart_on_crash(
    context: Context, stage: str, run: Callable[[CrashHistory], object], *, num_processes: int = 1
) -> None:
    """Call `run`, which runs a worker to its end, and again each time that what the worker had open killed it.

    `run` is given what the worker must find in its spec: where it must keep a `CrashJournal` (of several processes,
    each at `rank_journal`), and the crashes so far, for `Quarantine`: names to open first and one at a time,
    and names to reject as killed_worker.

    Raises:
        SanaError: the worker's own message.
        WorkerError: the worker crashed with nothing open, or more than MAX_RESTARTS times; names its log.
    """
    quarantined = Quarantine()
    for restart in range(MAX_RESTARTS + 1):
        # one for each: a worker that crashes before it opens anything must not find the names of an earlier one
        journal = context.work_dir / "crash_journals" / f"{stage}-{uuid.uuid4().hex[:12]}"
        try:
            run(CrashHistory(dict(quarantined.num_crashes), str(journal)))
            return
        except WorkerKilledError as error:
            names = sorted({name for rank in error.ranks for name in open_at_crash(rank_journal(journal, rank))})
            if not names or restart == MAX_RESTARTS:
                raise
            quarantined = quarantined.after(names)
            log.warning("%s: a worker crashed with %s open; another one continues. %s", stage, ", ".join(names), error)
        finally:
            for rank in range(num_processes):
                rank_journal(journal, rank).unlink(missing_ok=True)


def files_of_worker(context: Context, spec_for: Callable[[str], Spec]) -> dict[str, bytes]:
    """Run the worker whose spec, given a local folder to write to, is this; returns the files it wrote, by name."""
    with TemporaryDirectory(dir=context.work_dir, prefix="worker-") as folder:
        run_worker(context, spec_for(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
