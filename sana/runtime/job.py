"""The frame of every worker process: it reads a job file, reports progress to a file and ends with one clear line.

A stage writes the job, `sana.runtime.launcher` starts `python -m sana.workers.<stage> JOB`, and files carry all else.
"""

import ctypes
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sana.config.load import check
from sana.config.pipeline import Config
from sana.errors import DiskFullError, FullDiskExplained, RankLostError, SanaError
from sana.progress import Progress
from sana.record import JsonObject, Record
from sana.runtime.launcher import EXIT_DISK_FULL, EXIT_TRY_AGAIN, EXIT_USER_ERROR, error_path, progress_path
from sana.runtime.specs import Spec
from sana.runtime.worker_process import imports_are_done, keep_freed_memory
from sana.store import Store, open_store
from sana.store_errors import StoreError
from sana.wording import without_password

EXIT_INTERRUPTED = 130  # SIGINT was heard, which Ctrl-C sends, and the worker ended in order
EXIT_TERMINATED = 143  # SIGTERM was heard and the worker ended in order
_PR_SET_PDEATHSIG = 1


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class _JobFile(Record):
    """A job as it is written; `spec` and `config` are checked by their own classes."""

    worker: str
    config: JsonObject
    spec: JsonObject


@dataclass(frozen=True)
class Job(Generic[S]):
    """What one worker is to do; rows, where it has any, are in `todo`."""

    path: Path
    config: Config
    spec: S

    @property
    def progress_path(self) -> Path:
        """File of JSON lines, one Progress each."""
        return progress_path(self.path)

    def todo(self) -> pa.Table:
        """Read the rows to work on."""
        return pq.read_table(todo_path(self.path))

    @property
    def work_dir(self) -> Path:
        return Path(self.config.work_dir).absolute()

    def open_store(self) -> Store:
        return open_store(self.config.root)

    def report(self, progress: Progress) -> None:
        """Append one line to the progress file; only rank 0 reports."""
        with self.progress_path.open("ab") as file:
            file.write(progress.to_line())


def todo_path(job_path: Path) -> Path:
    """Parquet file of the rows a worker is to work on: ten million of them would not go into JSON."""
    return job_path.with_suffix(".todo.parquet")


def rank_journal(journal: Path, rank: int) -> Path:
    """File in which one of several workers notes what it has open, for the worker that follows when it crashes."""
    return journal.with_name(f"{journal.name}.{rank}") if rank else journal


def write_job(config: Config, spec: Spec, todo: pa.Table | None = None) -> Path:
    """Write a job file under work_dir, its rows beside it, and return its path."""
    folder = Path(config.work_dir).absolute() / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.WORKER}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.json"
    values = config.model_dump(mode="json")
    if config.tracking.uri is not None:  # no worker needs it, and job files stay
        values["tracking"]["uri"] = without_password(config.tracking.uri)
    path.write_bytes(_JobFile(spec.WORKER, values, spec.to_value()).to_json())
    if todo is not None:
        pq.write_table(todo, todo_path(path), compression="zstd")
    return path


def read_job(path: Path, kind: type[S]) -> Job[S]:
    """Read what `write_job` wrote, whose spec is of this kind; the config is checked again.

    Raises:
        SanaError: it is of another worker, another version of this software wrote it, or it is damaged.
    """
    repair_hint = "run again"
    record = _JobFile.load(path, repair_hint=repair_hint)
    if record.worker != kind.WORKER:
        raise SanaError(f"{path} is a job of {record.worker}; {kind.WORKER} cannot do it")
    spec = kind.from_value(dict(record.spec), where=f"`spec` in {path}", repair_hint=repair_hint)
    return Job(path, check(record.config, where=str(path)), spec)


def run_worker(body: Callable[[Job[S]], None], kind: type[S], argv: Sequence[str] | None = None) -> None:
    """Run a worker's body on a job of this kind: the `main` of every `python -m sana.workers.<worker>`.

    A SanaError becomes the job's error file and an exit code that says whether trying again may help. Any other
    exception is a bug and keeps its traceback.
    """
    path = Path((sys.argv[1:] if argv is None else argv)[0])
    run_in_order(path, lambda: body(read_job(path, kind)))


def run_in_order(path: Path, body: Callable[[], None]) -> None:
    """Run the body of a worker whose job file is `path`, with the exit codes and error file of `run_worker`."""
    die_with_parent()
    imports_are_done()
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with FullDiskExplained():
            body()
    except DiskFullError as error:
        logging.getLogger(__name__).critical("%s", error)
        try:
            error_path(path).write_text(str(error), encoding="utf-8")
        except OSError:  # it is the disk with this very file
            raise SystemExit(EXIT_DISK_FULL) from None
        raise SystemExit(EXIT_USER_ERROR) from None
    except SanaError as error:
        error_path(path).write_text(str(error), encoding="utf-8")
        # not as an ERROR, which the launcher would pass on at once: it raises this very message at the end
        logging.getLogger(__name__).critical("%s", error)
        raise SystemExit(EXIT_TRY_AGAIN if isinstance(error, StoreError | RankLostError) else EXIT_USER_ERROR) from None


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the parent dies, even by SIGKILL (Linux; elsewhere cancel still works)."""
    parent = int(os.environ.get("SANA_PARENT_PID", "0"))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the parent may have died before prctl took effect; torchrun, where used, stands between us and the launcher
    if parent and "TORCHELASTIC_RUN_ID" not in os.environ and os.getppid() != parent:
        raise SystemExit(f"the process that started this worker ({parent}) is gone")
