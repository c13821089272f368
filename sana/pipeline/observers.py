"""Observers: who watches a run. The terminal, Prefect, MLflow and the data report are observers; one more is one line.

An observer never decides anything. It is called from the thread that runs the stages, so it must not block for long.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sana.artifact import Artifact, Recipe
from sana.context import Context
from sana.errors import SanaError
from sana.progress import Happening, Progress

# How a stage ends. CACHED: found in storage. REPRODUCED: made again, with the content that it had before.
CACHED, COMPLETED, REPRODUCED, FAILED, STOPPED = "cached", "completed", "reproduced", "failed", "stopped"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStart:
    """A run begins: `title` is what a reader knows its config by."""

    title: str
    context: Context


@dataclass(frozen=True)
class StageStart:
    """A stage is next: its artifact is about to be looked up in storage."""

    stage: str


@dataclass(frozen=True)
class WorkStart:
    """The stage has work to do: storage has no artifact of this recipe, or the stage is forced."""

    stage: str
    recipe: Recipe
    inputs: Mapping[str, Artifact]


@dataclass(frozen=True)
class Committed:
    """The artifact is in storage: `state` is CACHED, COMPLETED or REPRODUCED. Its rejects may still be too many."""

    stage: str
    recipe: Recipe
    inputs: Mapping[str, Artifact]
    artifact: Artifact
    state: str


@dataclass(frozen=True)
class StageEnd:
    """The stage is over, in one of the five states; `error` is set for FAILED and STOPPED."""

    stage: str
    state: str
    error: BaseException | None = None


@dataclass(frozen=True)
class WorkEvent:
    """Something came about while the stage worked, such as a checkpoint; its worker reported it with its progress."""

    stage: str
    what: Happening


Event = StageStart | WorkStart | WorkEvent | Committed | StageEnd


class Observer:
    """What may be watched; an observer overrides what it wants to hear. A stage that is tried again starts again.

    Trouble that an observer expects (its server is down) is its own to handle. A SanaError or OSError that escapes from
    one is a warning and ends its watching, not the run; anything else is a bug and does end the run.
    """

    def on_run_start(self, start: RunStart) -> None:
        """Hear that a run begins. Who is started first is ended last."""

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        """Hear how far a stage is, several times a second at most."""

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Hear the rows of metrics that came since the last call, each with its step."""

    def on_event(self, event: Event) -> None:
        """Hear what happens to a stage."""

    def on_run_end(self, error: BaseException | None) -> None:
        """Hear that the run is over, and the error that ended it, if any."""


class Observers(Observer):
    """All observers of a run as one."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def on_run_start(self, start: RunStart) -> None:
        self._call(lambda observer: observer.on_run_start(start))

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        self._call(lambda observer: observer.on_stage_progress(stage, progress))
        if progress.metrics:
            self.on_metrics(stage, progress.metrics)
        for what in progress.happened:
            self.on_event(WorkEvent(stage, what))

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        self._call(lambda observer: observer.on_metrics(stage, rows))

    def on_event(self, event: Event) -> None:
        self._call(lambda observer: observer.on_event(event))

    def on_run_end(self, error: BaseException | None) -> None:
        self._call(lambda observer: observer.on_run_end(error), self._observers[::-1])

    def _call(self, tell: Callable[[Observer], None], observers: Sequence[Observer] | None = None) -> None:
        for observer in observers or list(self._observers):
            try:
                tell(observer)
            except (SanaError, OSError) as error:
                self._observers.remove(observer)
                log.warning("%s no longer watches this run: %s", type(observer).__name__, error)
