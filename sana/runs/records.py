"""What a root says of its runs: who runs what, how far it is, and how it ended. Written by the run, read by all others.

    runs/<run_id>/start.json          once there is work to do
    runs/<run_id>/status/<n>.json     replaced every few seconds: n + 1 is created, then n deleted
    runs/<run_id>/end.json            once, by a run that was not killed

A run is one call of the pipeline. Nothing is decided by these records: artifacts alone say what is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sana.metrics import STEP, Row
from sana.record import Record
from sana.runtime.process_id import ProcessId

FOLDER = "runs"
MAX_ROWS = 500  # of metrics in a status: older ones are thinned
MAX_EVENTS = 20

_MAX_STEP = 2**53  # whole numbers that a float has


def _checked_row(row: Row) -> Row:
    step = row.get(STEP, -1)
    if not (0 <= step < _MAX_STEP and step == int(step)):
        raise ValueError(f"a row of metrics needs a whole number of optimizer steps as its {STEP}")
    return row


# What is read of a root may be anybody's: these become parts of keys, addresses and dates.
Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]*$", max_length=100)]
UnixTime = Annotated[float, Field(ge=0, lt=1e11)]  # seconds
MetricsRow = Annotated[Row, AfterValidator(_checked_row)]

StageState = Literal["running", "cached", "completed", "reproduced", "failed", "stopped"]
RunEnd = Literal["completed", "failed", "stopped"]


@dataclass(frozen=True)
class RunStarted(Record):
    """A run has begun its work. `config` is the whole config as YAML, without passwords."""

    run_id: Name
    title: str  # of its config
    pipeline_key: str  # equal for runs of equal settings on equal sources
    config: str
    host: str  # name of the machine
    process: ProcessId
    started_at: UnixTime
    version: str  # of this software


@dataclass(frozen=True)
class StageStatus(Record):
    """One stage of a run: `done` of `total` in `unit`; `left_s` and `per_s` are None while nobody can tell."""

    state: StageState
    started_at: UnixTime
    ended_at: UnixTime | None = None
    fingerprint: Name = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    detail: str = ""  # or the phase it is in, such as "loading the model"
    per_s: float | None = None
    left_s: float | None = None
    num_in: int | None = None  # counts of the committed artifact
    num_out: int | None = None
    num_rejected: int | None = None
    error: str = ""


@dataclass(frozen=True)
class EventNote(Record):
    """Something that happened: `key` is that of an object in the root, where it is about one."""

    at: UnixTime
    stage: Name
    kind: Literal["checkpoint", "validation", "preview", "stage", "error"]
    text: str
    key: str = ""


@dataclass(frozen=True)
class RunStatus(Record):
    """How far a run is. `rows` are the metrics that no checkpoint of the training has yet, thinned to MAX_ROWS."""

    run_id: Name
    updated_at: UnixTime
    stages: Mapping[Name, StageStatus]  # those that the run has come to, in order
    trajectory: Name = ""  # of the training, once it has begun
    rows: tuple[MetricsRow, ...] = ()
    events: tuple[EventNote, ...] = ()  # the last ones, oldest first
    links: Mapping[str, str] = field(default_factory=dict)  # pages of this run by name: Prefect, MLflow


@dataclass(frozen=True)
class RunEnded(Record):
    """How a run ended; `error` is one text of several lines at most."""

    run_id: Name
    state: RunEnd
    ended_at: UnixTime
    error: str = ""


def start_key(run_id: str) -> str:
    """Return the key of a run's first record."""
    return f"{FOLDER}/{run_id}/start.json"


def status_key(run_id: str, number: int) -> str:
    """Return the key of the status with this number."""
    return f"{status_folder(run_id)}/{number:08d}.json"


def status_folder(run_id: str) -> str:
    """Return the folder of a run's status, which holds one object, for a moment two."""
    return f"{FOLDER}/{run_id}/status"


def end_key(run_id: str) -> str:
    """Return the key of a run's last record."""
    return f"{FOLDER}/{run_id}/end.json"
