"""Tools: workers that a command starts without a config. Their spec is all that they are told."""

import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sana.progress import Progress, Report
from sana.record import JsonObject, Record
from sana.runtime.job import run_in_order
from sana.runtime.launcher import launch, progress_path
from sana.runtime.specs import Spec


@dataclass(frozen=True)
class _ToolFile(Record):
    """What a tool is to do, as it is written: the class of its spec by name, and the spec."""

    tool: str
    spec: JsonObject


def run_tool(spec: Spec, *, work_dir: Path, report: Report) -> Path:
    """Run the worker of this spec to its end; returns its job file, beside which it left its result.

    Raises:
        SanaError: the worker's own message.
        WorkerError: the worker crashed; names its log.
    """
    for name in ("jobs", "logs"):
        (work_dir / name).mkdir(parents=True, exist_ok=True)
    path = work_dir / "jobs" / f"{spec.WORKER}-{uuid.uuid4().hex[:12]}.json"
    path.write_bytes(_ToolFile(type(spec).__name__, spec.to_value()).to_json())
    report(Progress(0, 0, "", phase="starting a process"))
    log_path = work_dir / "logs" / f"{path.stem}.log"
    launch(spec.module(), path, log_path=log_path, lock_path=None, report=report, stall_timeout_s=None)
    return path


def run_tool_worker(bodies: Mapping[type[Spec], Callable[[Any, Path, Report], None]]) -> None:
    """Run the body of the spec that the job file has: the `main` of a tool's worker. It gets spec, job file, report."""
    path = Path(sys.argv[1])

    def body() -> None:
        record = _ToolFile.load(path, repair_hint="run again")
        kinds = {kind.__name__: kind for kind in bodies}
        kind = kinds[record.tool]
        spec = kind.from_value(dict(record.spec), where=f"`spec` in {path}", repair_hint="run again")
        bodies[kind](spec, path, report)

    def report(progress: Progress) -> None:
        with progress_path(path).open("ab") as file:
            file.write(progress.to_line())

    run_in_order(path, body)
