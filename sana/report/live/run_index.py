"""The runs of a root, read step by step: one that has ended is read once, of one that has not the status is read again.

Kept of a run that is over is one short row, so that ten thousand fit; whole records are read when they are shown.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import yaml

from sana.errors import SanaError
from sana.metrics import STEP
from sana.runs.listing import Run, RunState, read_run
from sana.runs.records import FOLDER, StageStatus
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.store_errors import StoreError

MAX_NEW = 400  # runs that one refresh reads, the newest first; later ones read the others
QUIET_S = 3600.0  # a run that was silent so long is looked at again every RETRY_S alone
RETRY_S = 600.0
LIVE: tuple[RunState, ...] = ("running", "silent")


@dataclass(frozen=True)
class RunRow:
    """One run in a list. `stage`: the one that it came to last."""

    run_id: str
    title: str
    host: str
    state: RunState
    started_at: float  # Unix time, seconds
    heard_at: float
    stage: str
    stage_status: StageStatus | None
    trajectory: str
    fingerprint: str  # of its train stage, "" before
    step: int  # of training, as far as the run got; 0 where it was cached
    max_steps: int
    has_trained: bool  # and did not find the training in storage
    error: str
    method: str = ""  # of training, and its data sets: of runs that are not over
    data: str = ""

    @property
    def seconds(self) -> float:
        """How long it ran, or has been running."""
        return max(0.0, self.heard_at - self.started_at)


class RunIndex:
    """The runs of a root as of the last `refresh`, the newest first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows: Sequence[RunRow] = ()
        self.live: dict[str, Run] = {}  # those that have not ended and were heard of lately, with their metrics
        self.num_unread = 0
        self._known: dict[str, RunRow] = {}
        self._read_at: dict[str, float] = {}  # of those that have not ended
        self._damaged: set[str] = set()

    def refresh(self, now: float | None = None) -> None:
        """Look at the runs again. Raises StoreError or OSError where storage does not answer."""
        now = time.time() if now is None else now
        names = self._store.list_dirs(FOLDER)[::-1]
        for gone in self._known.keys() - set(names):
            self._forget(gone)
        new = [name for name in names if name not in self._known and name not in self._damaged]
        again = [name for name, read_at in self._read_at.items() if self._is_due(name, read_at, now)]
        wanted = [*again, *new[:MAX_NEW]]
        for name, run in zip(wanted, in_threads(self._read, wanted), strict=True):
            self._take(name, run, now)
        self.num_unread = len(new) - len(new[:MAX_NEW])
        self.rows = [self._known[name] for name in names if name in self._known]

    def run(self, run_id: str) -> Run:
        """Return one run, as it is now if it has not ended. Raises LookupError: there is none."""
        if run_id not in self._known:
            raise LookupError(f"there is no run {run_id} under this root")
        run = self.live.get(run_id) or read_run(self._store, run_id)
        if run is None:
            raise LookupError(f"the run {run_id} was removed")
        return run

    def of_training(self, trajectory: str, fingerprint: str) -> list[RunRow]:
        """Return the runs that worked on a training, the newest first."""
        return [
            row
            for row in self.rows
            if row.has_trained and (row.fingerprint == fingerprint if fingerprint else row.trajectory == trajectory)
        ]

    def _read(self, name: str) -> Run | None:
        try:
            return read_run(self._store, name)
        except StoreError:
            raise
        except SanaError:  # damaged, or of another version
            self._damaged.add(name)
            return None

    def _take(self, name: str, run: Run | None, now: float) -> None:
        if run is None:  # damaged, removed, or just about to write its first record
            self._forget(name)
            return
        self._known[name] = row_of(run, now)
        if run.ended is not None:
            self._read_at.pop(name, None)
            self.live.pop(name, None)
            return
        self._read_at[name] = now
        if now - run.heard_at < QUIET_S:
            self.live[name] = run
            method, data = _settings(run.started.config)
            self._known[name] = replace(self._known[name], method=method, data=data)
        else:
            self.live.pop(name, None)

    def _is_due(self, name: str, read_at: float, now: float) -> bool:
        return name in self.live or now - read_at >= RETRY_S

    def _forget(self, name: str) -> None:
        for kept in (self._known, self._read_at, self.live):
            kept.pop(name, None)


def row_of(run: Run, now: float) -> RunRow:
    """Return the row of a run."""
    stages = shown_stages(run, now)
    stage, status = list(stages.items())[-1] if stages else ("", None)
    train = stages.get("train")
    live = run.status.rows if run.status is not None else ()
    step = max((int(row[STEP]) for row in live), default=0)
    ended = run.ended.error if run.ended is not None else ""
    error = (ended or next((one.error for one in stages.values() if one.error), ""))[:400]
    return RunRow(
        run_id=run.run_id,
        title=run.started.title,
        host=run.started.host,
        state=run.state(now),
        started_at=run.started.started_at,
        heard_at=run.heard_at,
        stage=stage,
        stage_status=status,
        trajectory=run.trajectory,
        fingerprint=train.fingerprint if train is not None else "",
        step=max(step, train.done if train is not None else 0),
        max_steps=train.total if train is not None else 0,
        has_trained=train is not None and train.state != "cached",
        error=error,
    )


@lru_cache(64)
def _settings(config: str) -> tuple[str, str]:
    """Return the method and the data sets that a config names; nothing where it is of another version."""
    try:
        values = yaml.safe_load(config)
        method = (values["train"].get("method") or {}).get("name", "full")
        return str(method), ", ".join(str(one["id"]) for one in values["download"]["datasets"])
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", ""


def shown_stages(run: Run, now: float) -> dict[str, StageStatus]:
    """Return the stages of a run; what runs in one that is no longer heard of is not running."""
    stages = dict(run.status.stages) if run.status is not None else {}
    state = run.state(now)
    if state == "running":
        return stages
    return {
        name: replace(one, state="stopped", left_s=None, per_s=None) if one.state == "running" else one
        for name, one in stages.items()
    }
