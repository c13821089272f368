"""The runs of a root, newest first, and in what state each is. Bounded: two or three small reads for a run.

Nothing is decided by these records, so one that is damaged (the machine lost its power, or somebody wrote it) hides no
other: a run without a readable start is left out, and one whose status or end is damaged is shown as if that was
never written.
"""

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, TypeVar

from sana.errors import SanaError
from sana.record import DamagedRecordError, Record
from sana.runs.records import FOLDER, RunEnd, RunEnded, RunStarted, RunStatus, end_key, start_key, status_folder
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.store_errors import StoreError
from sana.wording import one_line

SILENT_S = 90.0  # several heartbeats, and more than clocks differ

_Record = TypeVar("_Record", bound=Record)
_log = logging.getLogger(__name__)

RunState = RunEnd | Literal["running", "silent", "killed"]


@dataclass(frozen=True)
class Run:
    """One call of the pipeline, as its root has it. `status` is None until the first one is written."""

    started: RunStarted
    status: RunStatus | None
    ended: RunEnded | None

    @property
    def run_id(self) -> str:
        """Its name: the second of its start, UTC, and six random digits. Later runs have greater names."""
        return self.started.run_id

    @property
    def trajectory(self) -> str:
        """The training that it has worked on, or ""."""
        return self.status.trajectory if self.status else ""

    def state(self, now: float) -> RunState:
        """Return how it ended, or whether it is running; `now` is Unix time in seconds.

        killed: its process, of this machine, is gone. silent: nothing was heard of it for SILENT_S: it was killed, or
        storage is away from where it runs; or it speaks of a time to come, so that nobody can tell when it last did.
        """
        if self.ended is not None:
            return self.ended.state
        if self.started.process.is_gone():
            return "killed"
        return "silent" if abs(now - self.heard_at) > SILENT_S else "running"

    @property
    def heard_at(self) -> float:
        """When it last said something, Unix time, seconds."""
        if self.ended is not None:
            return self.ended.ended_at
        return self.status.updated_at if self.status else self.started.started_at


def runs_of(store: Store, *, limit: int | None = 100) -> list[Run]:
    """Return the newest runs of a root, newest first; None: all.

    Raises:
        StoreError: storage does not answer.
    """
    return list(iterate_runs(store, limit=limit))


def iterate_runs(store: Store, *, limit: int | None = None) -> Generator[Run]:
    """Yield the runs of a root, newest first. Raises as `runs_of` does."""
    names = store.list_dirs(FOLDER)[::-1][:limit]
    yield from (found for found in in_threads(partial(_run_or_none, store), names) if found is not None)


def _run_or_none(store: Store, run_id: str) -> Run | None:
    try:
        return read_run(store, run_id)
    except StoreError:
        raise
    except SanaError as error:
        _say(one_line(error))
        return None


def read_run(store: Store, run_id: str) -> Run | None:
    """Return one run; None if there is none of this name.

    Raises:
        SanaError: its first record is damaged.
        StoreError: storage does not answer.
    """
    try:
        data = store.read(start_key(run_id))
    except FileNotFoundError:
        return None
    started = RunStarted.from_json(data, where=store.uri(start_key(run_id)))
    if started.run_id != run_id:
        raise DamagedRecordError(f"{store.uri(start_key(run_id))} is of the run {started.run_id!r}: it was moved there")
    return Run(started, read_status(store, run_id), _read_end(store, run_id))


def read_status(store: Store, run_id: str) -> RunStatus | None:
    """Return the newest status of a run, or None. Raises as `runs_of` does."""
    for _ in range(5):  # it may be replaced between the listing and the reading
        keys = [key for key, _ in store.list(status_folder(run_id))]
        if not keys:
            return None
        try:
            return _readable(RunStatus, store, keys[-1])
        except FileNotFoundError:
            time.sleep(0.02)
    return None


def _read_end(store: Store, run_id: str) -> RunEnded | None:
    key = end_key(run_id)
    try:
        return _readable(RunEnded, store, key)
    except FileNotFoundError:
        return None


def _readable(kind: type[_Record], store: Store, key: str) -> _Record | None:
    """Read a record that is shown; None if it is damaged. Raises FileNotFoundError and StoreError."""
    data = store.read(key)
    try:
        return kind.from_json(data, where=store.uri(key))
    except SanaError as error:
        _say(one_line(error))
        return None


@lru_cache(1000)
def _say(text: str) -> None:  # once, as pages read again and again
    _log.warning("%s", text)
