"""What is known of one stage while a run is shown: its state, its true counts, one rate, and what it is busy with.

No terminal here: `progress_display` draws it. Times are of a monotonic clock, seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sana.artifact import Artifact
from sana.pipeline.observers import CACHED, COMPLETED, FAILED, REPRODUCED, STOPPED
from sana.progress import Pace, Progress
from sana.wording import clock, rate_text

RUNNING, NOT_REACHED = "running", "not reached"
_PASSED = {"encode_captions": "encoded", "encode_latents": "encoded", "probe": "probed"}  # what earlier runs did

_BESIDE_S = 5.0  # that a stage may take beside the work of which its artifact has the seconds


@dataclass
class StageView:
    """One stage, or other work that is counted; `progress` is the last report that counted something."""

    name: str
    started_at: float
    state: str = RUNNING
    progress: Progress | None = None
    phase: str = ""
    artifact: Artifact | None = None
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    committed_at: float | None = None
    ended_at: float | None = None
    attempt: int = 1
    pace: Pace = field(init=False)
    _restarted: bool = True  # the next count is where the pace begins

    def __post_init__(self) -> None:
        self.pace = Pace(self.started_at)

    def try_again(self, now: float) -> None:
        """Begin another attempt: what the one before counted is counted again."""
        self.attempt += 1
        self.start(now)

    def start(self, now: float) -> None:
        """Begin the work: from now on it is timed."""
        self.state, self.started_at, self.ended_at = RUNNING, now, None
        self.progress, self.phase, self.artifact, self.committed_at = None, "", None, None
        self.pace, self._restarted = Pace(now), True

    def hear(self, progress: Progress, now: float) -> None:
        """Take in a report."""
        self.phase = progress.phase
        if not progress.total:  # a process is being started
            self._restarted = True
            return
        last = self.progress or Progress(0, 0, progress.unit)
        is_other = (progress.before, progress.unit) != (last.before, last.unit)
        if is_other or (self._restarted and progress.phase):
            self.pace = Pace(now, progress.done)
        else:
            self.pace.add(progress.done, now)
        self.progress, self._restarted = progress, False

    def end(self, state: str, now: float) -> None:
        """Take in how it ended."""
        self.state, self.phase = state, ""
        self.ended_at = now if self.committed_at is None else self.committed_at

    @property
    def is_done(self) -> bool:
        return self.state in (CACHED, COMPLETED, REPRODUCED)

    @property
    def is_broken(self) -> bool:
        return self.state in (FAILED, STOPPED)

    @property
    def fraction(self) -> float | None:
        """What part of the work is done, or None while nothing was counted."""
        return min(self.progress.done / self.progress.total, 1.0) if self.progress else None

    def counts(self) -> str:
        """Return such as `55/120 steps`; of a stage that reports nothing, what went in and out; "" for neither."""
        if self.progress is not None:
            return f"{self.progress.done}/{self.progress.total} {self.progress.unit}"
        return f"{self.artifact.counts.num_in} in, {self.artifact.counts.num_out} out" if self.artifact else ""

    def resumed(self) -> str:
        """Say what earlier runs had done, or "" when they had done nothing."""
        if self.progress is None or not self.progress.before:
            return ""
        if self.progress.unit == "steps":
            return f"resumed from step {self.progress.before}"
        done = _PASSED.get(self.name, "done")
        return f"resumed: {self.progress.before} of {self.progress.total} {self.progress.unit} were {done} before"

    def time(self, now: float, *, with_unit: bool = True) -> str:
        """Return the one time that matters, labelled: rate and ETA while it counts, how long it took when it ended."""
        if self.state == CACHED:
            return ""
        elapsed = clock(self._elapsed_s(now))
        if self.state == RUNNING:
            rate = self.pace.per_s(now)
            if self.progress is None or rate is None:
                return f"for {elapsed}"
            left = self.pace.left_s(self.progress.total, now)
            return f"{rate_text(rate, self.progress.unit if with_unit else '')}, ETA {clock(left or 0.0)}"
        return f"took {elapsed}" if self.is_done else f"after {elapsed}"

    def _elapsed_s(self, now: float) -> float:
        elapsed_s = max((now if self.ended_at is None else self.ended_at) - self.started_at, 0.0)
        if self.state == COMPLETED and self.artifact and elapsed_s - self.artifact.seconds < _BESIDE_S:
            return self.artifact.seconds  # what the table says; else other machines worked before it began to count
        return elapsed_s

    def note(self) -> str:
        """Return what it is busy with, or what the last report said; in the end how many were rejected, if any."""
        if self.state == RUNNING and self.phase:
            return self.phase
        detail = self.progress.detail if self.progress else ""
        rejected = self.artifact.counts.num_rejected if self.artifact else 0
        return f"{rejected} rejected" if rejected else detail

    def running_line(self, now: float) -> str:
        """Return one line for a log, such as `train: 55/120 steps, 3.9 steps/s, ETA 0:17, loss 0.7`."""
        time = self.time(now)
        parts = [self.counts(), f"running {time}" if time.startswith("for ") else time, self.note()]
        return f"{self.name}: {', '.join(part for part in parts if part)}"

    def end_line(self, *, tried_again: bool = False) -> str:
        """Return one line for a log: how it ended, with its counts and time."""
        took = self.time(0.0)
        if self.is_done:
            counts = self.artifact.counts if self.artifact else None
            if counts and self.state == CACHED:  # the rest says what that run had to do
                counts = replace(counts, extra={})
            parts = [f"{self.state}{f', {took}' if took else ''}", str(counts or "")]
        else:
            attempt = f"attempt {self.attempt} " if tried_again or self.attempt > 1 else ""
            parts = [f"{attempt}{self.state} {took}{f' at {self.counts()}' if self.counts() else ''}"]
            parts += ["it is tried again"] if tried_again else []
        return f"{self.name}: {'; '.join(part for part in parts if part)}"
