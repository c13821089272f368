"""Start the child process that does a stage's heavy work: models live and die in it, never in the flow."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from sana.artifact import Artifact
from sana.context import Context
from sana.data.weights import resolve_model
from sana.progress import Report
from sana.training.launch import WorkerError, launch
from sana.work.job import todo_path, write_job


def run_worker(
    context: Context,
    stage: str,
    artifacts: Mapping[str, Artifact],
    spec: Mapping[str, Any],
    *,
    todo: pa.Table | None = None,
    num_processes: int = 1,
    lock: str | None = None,
    report: Report | None = None,
    stall_timeout_s: float | None = None,
) -> Path:
    """Run `python -m sana.work.<stage>` to its end and return its job file, beside which it left its results.

    `todo` are the rows it works on. `lock` names work that only one process of this machine may do at a time.
    `report` hears its progress instead of the context's.

    Raises:
        SanaError: the worker's own message.
        WorkerError: the worker died; names its log.
    """
    job_path = write_job(stage, context.config, artifacts, spec, todo)
    (context.work_dir / "logs").mkdir(parents=True, exist_ok=True)
    (context.work_dir / "locks").mkdir(parents=True, exist_ok=True)
    try:
        launch(
            f"sana.work.{stage}",
            job_path,
            num_processes=num_processes,
            log_path=context.work_dir / "logs" / f"{job_path.stem}.log",
            lock_path=context.work_dir / "locks" / f"{lock}.lock" if lock else None,
            report=report or context.report,
            stall_timeout_s=stall_timeout_s,
        )
    except WorkerError as error:
        error.job_path = job_path
        raise
    finally:
        todo_path(job_path).unlink(missing_ok=True)
    return job_path


def run_on_checkpoint(context: Context, stage: str, inputs: Mapping[str, Artifact]) -> dict[str, bytes]:
    """Run the worker of a stage that reads the checkpoint train committed; returns the files it wrote, by name."""
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    facts = inputs["train"].facts
    with TemporaryDirectory(dir=context.work_dir, prefix=f"{stage}-") as folder:
        spec = {
            "trajectory": facts["trajectory"],
            "step": facts["step"],
            "model_path": model.path,
            "model_revision": model.revision,
            "out_dir": folder,
        }
        run_worker(context, stage, inputs, spec)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
