"""What `sana watch` shows at one moment, as one closed record: the screen, plain lines and `--json` are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sana.record import Record

MAX_POINTS = 256  # of a curve


@dataclass(frozen=True)
class WatchedStage(Record):
    """One stage that the run has come to."""

    name: str
    state: str  # running, cached, completed, reproduced, failed or stopped
    done: int
    total: int  # 0: nothing is counted yet
    unit: str
    per_s: float | None  # rate; null while nobody can tell, and for left_s
    left_s: float | None  # seconds until it is done, at that rate
    elapsed_s: float | None  # null where it was cached
    detail: str  # what it is busy with
    num_in: int | None  # counts of its artifact
    num_out: int | None
    num_rejected: int | None
    error: str


@dataclass(frozen=True)
class WatchedCurve(Record):
    """One metric by step, of all attempts at this training: at most 256 points, means of the steps between them."""

    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class WatchedAttempt(Record):
    """One run of the same config."""

    run_id: str
    state: str  # running, silent, killed, completed, failed or stopped
    step: int | None  # optimizer steps done, where it trained


@dataclass(frozen=True)
class WatchedEvent(Record):
    """Something that happened."""

    at: float  # Unix time, seconds
    stage: str
    text: str
    place: str  # of the object that it is about, or ""


@dataclass(frozen=True)
class WatchDocument(Record):
    """A run as it is now, from storage alone."""

    root: str
    read_at: float  # Unix time, seconds; this and those below
    state: str  # waiting (no run yet), running, silent, killed, completed, failed, stopped, or unrecorded (of no run)
    said: str  # the state in words, with what to do
    run_id: str = ""
    title: str = ""  # of its config
    host: str = ""
    pid: int | None = None
    started_at: float | None = None
    heard_at: float | None = None  # its last sign
    ended_at: float | None = None
    error: str = ""
    attempts: tuple[WatchedAttempt, ...] = ()  # runs of this config, the newest first, this one among them
    stages: tuple[WatchedStage, ...] = ()
    trajectory: str = ""  # of the training
    latest: Mapping[str, float] = field(default_factory=dict)  # the last number of each metric that is shown
    curves: Mapping[str, WatchedCurve] = field(default_factory=dict)  # train/loss and the eval losses
    events: tuple[WatchedEvent, ...] = ()  # the last ones, oldest first
    sample: str = ""  # the last videos or their picture
    links: Mapping[str, str] = field(default_factory=dict)  # pages of this run by name
    trouble: str = ""  # why this may be old: storage does not answer

    @property
    def is_over(self) -> bool:
        """Whether the run has ended by itself, and nothing more will come of it."""
        return self.ended_at is not None
