"""The runs that worked on a training, as its root has them: when, where, and how each ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sana.metrics import STEP, Row
from sana.report.training.verdict import Ending
from sana.runs.listing import Run, iterate_runs
from sana.store import Store

_MAX_RUNS = 300  # newest of the root that are looked at


@dataclass(frozen=True)
class RunLine:
    """One run. `ended_at`: None while it runs; of one that was killed, when it was heard of last."""

    run_id: str
    host: str
    started_at: float
    ended_at: float | None
    state: str
    error: str


@dataclass(frozen=True)
class TrainingRuns:
    """The runs of a training, the oldest first; the newest one's rows that no checkpoint has, and what it is of."""

    lines: Sequence[RunLine]
    live: Sequence[Row]
    title: str
    config: Mapping[str, Any]  # as YAML has it; empty without a run

    @property
    def ending(self) -> Ending:
        """How the newest one ended."""
        return Ending(self.lines[-1].state, self.lines[-1].error) if self.lines else Ending()


def runs_of_training(store: Store, trajectory: str, *, now: float) -> TrainingRuns:
    """Return the runs that worked on a trajectory, of the newest ones of its root.

    Raises:
        SanaError: a record is damaged.
        StoreError: storage does not answer.
    """
    found = [run for run in iterate_runs(store, limit=_MAX_RUNS) if run.trajectory == trajectory][::-1]
    if not found:
        return TrainingRuns((), (), "", {})
    newest = found[-1]
    config = _config_of(newest)
    live = newest.status.rows if newest.status else ()
    lines = [_line(run, now) for run in found]
    return TrainingRuns(lines, live, newest.started.title, config if isinstance(config, dict) else {})


def _config_of(run: Run) -> object:
    try:
        return yaml.safe_load(run.started.config)
    except (yaml.YAMLError, ValueError, RecursionError):  # it was not written by this software
        return None


def beyond(rows: Sequence[Row], step: int) -> list[Row]:
    """Return the rows of later steps."""
    return [row for row in rows if row[STEP] > step]


def _line(run: Run, now: float) -> RunLine:
    state = run.state(now)
    ended_at = None if state == "running" else run.heard_at
    error = run.ended.error if run.ended else ""
    return RunLine(run.run_id, run.started.host, run.started.started_at, ended_at, state, error)
