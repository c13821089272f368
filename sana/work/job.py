"""The frame of every worker process: it reads a job file, reports progress to a file and ends with one clear line.

A stage writes the job, `sana.training.launch` starts `python -m sana.work.<stage> JOB`, and files carry all else.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sana.artifact import Artifact
from sana.config.load import check
from sana.config.pipeline import Config
from sana.errors import SanaError
from sana.progress import Progress
from sana.store import Store, open_store
from sana.store_errors import StoreError
from sana.training.launch import EXIT_TRY_AGAIN, EXIT_USER_ERROR, error_path, progress_path
from sana.work.start import imports_are_done, keep_freed_memory

EXIT_TERMINATED = 143  # SIGTERM was heard and the worker ended in order
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What one worker is to do. `spec` is stage-specific JSON; `artifacts` are its inputs; rows are in `todo`."""

    path: Path
    stage: str
    config: Config
    artifacts: Mapping[str, Artifact]
    spec: Mapping[str, Any]

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
        with self.progress_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(progress)) + "\n")


def todo_path(job_path: Path) -> Path:
    """Parquet file of the rows a worker is to work on: ten million of them would not go into JSON."""
    return job_path.with_suffix(".todo.parquet")


def rank_journal(journal: Path, rank: int) -> Path:
    """File in which one of several workers says what it has open, for whoever comes after its death."""
    return journal.with_name(f"{journal.name}.{rank}") if rank else journal


def write_job(
    stage: str,
    config: Config,
    artifacts: Mapping[str, Artifact],
    spec: Mapping[str, Any],
    todo: pa.Table | None = None,
) -> Path:
    """Write a job file under work_dir, its rows beside it, and return its path."""
    folder = Path(config.work_dir).absolute() / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.json"
    record = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "artifacts": {name: json.loads(artifact.to_json()) for name, artifact in artifacts.items()},
        "spec": dict(spec),
    }
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if todo is not None:
        pq.write_table(todo, todo_path(path), compression="zstd")
    return path


def read_job(path: Path) -> Job:
    """Read what `write_job` wrote; the config and the artifacts are checked again.

    Raises:
        SanaError: another version of this software wrote it.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    return Job(
        path=path,
        stage=record["stage"],
        config=check(record["config"], where=str(path)),
        artifacts={
            name: Artifact.from_json(json.dumps(value).encode(), where=str(path))
            for name, value in record["artifacts"].items()
        },
        spec=record["spec"],
    )


def run_worker(body: Callable[[Job], None], argv: Sequence[str] | None = None) -> None:
    """Run a worker's body: the `main` of every `python -m sana.work.<stage>`.

    A SanaError becomes the job's error file and an exit code that says whether trying again may help. Any other
    exception is a bug and keeps its traceback.
    """
    die_with_parent()
    imports_are_done()
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arguments = list(sys.argv[1:] if argv is None else argv)
    job = read_job(Path(arguments[0]))
    try:
        body(job)
    except SanaError as error:
        error_path(job.path).write_text(str(error), encoding="utf-8")
        # not as an ERROR, which the launcher would pass on at once: it raises this very message at the end
        logging.getLogger(__name__).critical("%s", error)
        raise SystemExit(EXIT_TRY_AGAIN if isinstance(error, StoreError) else EXIT_USER_ERROR) from None


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the parent dies, even by SIGKILL (Linux; elsewhere cancel still works)."""
    parent = int(os.environ.get("SANA_PARENT_PID", "0"))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the parent may have died before prctl took effect; torchrun, where used, stands between us and the launcher
    if parent and "TORCHELASTIC_RUN_ID" not in os.environ and os.getppid() != parent:
        raise SystemExit(f"the process that started this worker ({parent}) is gone")
