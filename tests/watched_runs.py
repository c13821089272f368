"""A root with the records of runs, as `sana watch` reads them: written as a run writes them, without a run."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sana import metrics
from sana.runs import records
from sana.runs.records import EventNote, RunEnd, RunEnded, RunStarted, RunStatus, StageStatus
from sana.runtime.process_id import ProcessId, this_process
from sana.store import Store
from sana.training.checkpoints.checkpoint import Checkpoint, DataPosition, commit, save_segment

ELSEWHERE = ProcessId("another-machine", 7)
TRAJECTORY = "0376bea032cdd93a"


def rows_of(steps: Sequence[int]) -> list[Mapping[str, float]]:
    """Rows of these steps, whose loss is 2 over the step."""
    return [
        {metrics.STEP: step, metrics.TRAIN_LOSS: 2 / step, metrics.LEARNING_RATE: 1e-4, metrics.SAMPLES_PER_S: 12.5}
        for step in steps
    ]


def put_run(
    store: Store,
    run_id: str,
    *,
    title: str = "demo",
    process: ProcessId | None = None,
    age_s: float = 0.0,
    stages: Mapping[str, StageStatus] | None = None,
    rows: Sequence[Mapping[str, float]] = (),
    events: Sequence[EventNote] = (),
    ended: RunEnd | None = None,
    error: str = "",
    trajectory: str = "",
) -> None:
    """Write a run that was heard of `age_s` seconds ago."""
    now = time.time()
    started = RunStarted(run_id, title, "key", "root: x\n", "host", process or this_process(), now - 600, "0.1.0")
    store.put_if_absent(records.start_key(run_id), started.to_json())
    status = RunStatus(run_id, now - age_s, stages or {}, trajectory, tuple(rows), tuple(events))
    number = len(store.list(records.status_folder(run_id))) + 1
    store.put_if_absent(records.status_key(run_id, number), status.to_json(indent=None))
    if ended is not None:
        store.put_if_absent(records.end_key(run_id), RunEnded(run_id, ended, now - age_s, error).to_json())


def training(done: int, *, state: Any = "running", per_s: float = 4.0, error: str = "") -> dict[str, StageStatus]:
    """Two stages: one that is cached, and training of 120 steps."""
    now = time.time()
    train = StageStatus(
        *(state, now - 60, None if state == "running" else now, "f1f1f1f1f1f1f1f1", done, 120, "steps", "", per_s),
        left_s=(120 - done) / per_s,
        error=error,
    )
    return {"download": StageStatus("cached", now - 60, now, "d0d0d0d0d0d0d0d0", num_in=16, num_out=15, num_rejected=1),
            "train": train}  # fmt: skip


def put_checkpoint(store: Store, step: int) -> None:
    """Commit a checkpoint whose one segment has the rows of all steps up to it, and an eval loss of it."""
    rows = [dict(row) for row in rows_of(range(1, step + 1))]
    rows[-1] |= {metrics.EVAL_LOSS_EMA: 0.7, metrics.EVAL_STDERR_EMA: 0.01}
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    segment = save_segment(store, TRAJECTORY, first=1, last=step, attempt="a", data=data)
    commit(store, Checkpoint(TRAJECTORY, step, "a", {}, (segment,), DataPosition(step, 0, step), 0, {}, time.time()))
