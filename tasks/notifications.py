"""Notifications and Prefect events of a run, as an observer. Nothing here waits, but for a few seconds at the end."""

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.events import emit_event

from sana.artifact import Artifact
from sana.config.delivery.notifications import Level, NotificationsConfig
from sana.delivery.dispatch import Dispatcher, summary
from sana.delivery.notification import EventKind, Notification
from sana.errors import why_ended
from sana.facts import EvaluateFacts
from sana.metrics import EVAL_LOSS_EMA, TRAIN_LOSS
from sana.pipeline.observers import (
    CACHED,
    FAILED,
    STOPPED,
    Committed,
    Event,
    Observer,
    RunStart,
    StageEnd,
    WorkEvent,
    WorkStart,
)
from sana.progress import CheckpointSaved, Happening, Pace, PreviewReady, Progress, ValidationDone
from sana.wording import one_line, without_password
from tasks.tracking.tracker import Tracker
from tasks.web_pages import mlflow_page

KILLED_DRAIN_S = 1.0  # on a cancel little of Prefect's grace is left
_EMITTED = ("run", "stage", "checkpoint", "validation", "error")  # Prefect shows progress itself

log = logging.getLogger(__name__)


class Notifier(Observer):
    """Tells the config's targets, and where `on_server` Prefect's events, what happens to a run."""

    def __init__(self, config: NotificationsConfig, tracker: Tracker, *, on_server: bool) -> None:
        self._config, self._tracker = config, tracker
        self._emits = on_server and config.prefect_events
        self._dispatcher: Dispatcher | None = None  # from the start to the end of the run
        self._run: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._started = time.monotonic()
        self._work_started: dict[str, float] = {}
        self._pace: dict[str, Pace] = {}
        self._last: dict[str, dict[str, Any]] = {}  # of each stage: step, total, unit, loss, eval_loss

    def on_run_start(self, start: RunStart) -> None:
        self._dispatcher = Dispatcher(self._config)
        for problem in self._dispatcher.problems:
            log.warning("%s", problem)
        self._run = {"name": start.title, "config_digest": self._tracker.key, "host": socket.gethostname()}
        self._links = _pages(self._tracker)
        self._tell("run", "started", "info", f"{start.title}: the run starts")

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        if not progress.total:
            return
        now = time.monotonic()
        pace = self._pace.setdefault(stage, Pace(now, progress.done))
        pace.add(progress.done, now)
        last = self._last.setdefault(stage, {})
        last |= {"step": progress.done, "total": progress.total, "unit": progress.unit}
        title = f"{self._name}: {stage} is at {progress.done} of {progress.total} {progress.unit}"
        self._tell("progress", "running", "info", title, stage, eta_s=pace.left_s(progress.total, now))

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        last = self._last.setdefault(stage, {})
        for row in rows:
            for name, metric in (("loss", TRAIN_LOSS), ("eval_loss", EVAL_LOSS_EMA)):
                if metric in row:
                    last[name] = float(row[metric])

    def on_event(self, event: Event) -> None:
        match event:
            case WorkStart():
                self._work_started[event.stage] = time.monotonic()
                self._pace.pop(event.stage, None)
                self._tell("stage", "started", "info", f"{self._name}: {event.stage} starts", event.stage)
            case WorkEvent():
                self._happened(event.stage, event.what)
            case Committed():
                self._learn(event.artifact)
            case StageEnd():
                self._stage_ended(event)
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        """Tell how the run ended, wait a little for what is not sent yet, and say what was dropped."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        is_killed = error is not None and not isinstance(error, Exception)
        state, level = ("completed", "info") if error is None else ("failed", "error")
        state, level = (STOPPED, "warning") if is_killed else (state, level)
        seconds = time.monotonic() - self._started
        text = why_ended(error) if error is not None else None
        self._tell("run", state, _level(level), f"{self._name}: the run {_ended(state)}", seconds=seconds, error=text)
        self._dispatcher = None
        delivered = dispatcher.end(min(self._config.drain_s, KILLED_DRAIN_S) if is_killed else self._config.drain_s)
        lines = summary(delivered)
        for line in lines:
            log.warning("%s", line)
        run_id = self._tracker.run_id
        if run_id is not None and delivered:
            dropped = sum(result.num_dropped for result in delivered.values())
            self._tracker.try_to(lambda client: client.log_metric(run_id, "notifications_dropped", float(dropped)))
            told = "; ".join(lines) or "all sent"
            self._tracker.try_to(lambda client: client.set_tag(run_id, "sana.notifications", told))

    @property
    def _name(self) -> str:
        return self._run.get("name", "")

    def _stage_ended(self, event: StageEnd) -> None:
        stage, started = event.stage, self._work_started.pop(event.stage, None)
        level = {CACHED: "debug", FAILED: "error", STOPPED: "warning"}.get(event.state, "info")
        self._tell(
            "stage",
            event.state,
            _level(level),
            f"{self._name}: {stage} {_ended(event.state)}",
            stage,
            seconds=None if started is None else time.monotonic() - started,
            error=why_ended(event.error) if event.error is not None else None,
        )

    def _happened(self, stage: str, what: Happening) -> None:
        at = {"step": what.step, "unit": "steps"}
        match what:
            case CheckpointSaved():
                title = f"{self._name}: the checkpoint of step {what.step} is saved"
                self._tell("checkpoint", "saved", "info", title, stage, files={"index": what.key}, **at)
            case ValidationDone():
                state, level = ("failed", "warning") if what.error else ("done", "info")
                of = f" of the {what.weights} weights" if what.weights else ""
                title = f"{self._name}: validation{of} at step {what.step} {_ended(state)}"
                error = one_line(what.error) if what.error else None
                told = {"files": what.videos, "seconds": what.seconds, "error": error}
                self._tell("validation", state, _level(level), title, stage, **at, **told)
            case PreviewReady():
                title = f"{self._name}: {what.prompt} at step {what.step}, {what.sampler_step}/{what.num_sampler_steps}"
                self._tell("preview", "ready", "info", title, stage, files={what.prompt: what.picture}, **at)

    def _learn(self, artifact: Artifact) -> None:
        """Keep what an artifact's facts say that is told: the eval loss, and pages that it was published at."""
        if evaluated := EvaluateFacts.find(artifact):
            self._last.setdefault(artifact.stage, {})["eval_loss"] = evaluated.weights["ema"].mean
        links = artifact.facts.get("links")
        if isinstance(links, dict):
            self._links |= {name: str(link) for name, link in links.items()}

    def _tell(
        self, kind: EventKind, state: str, level: Level, title: str, stage: str | None = None, **what: Any
    ) -> None:
        if self._dispatcher is None:
            return
        last = self._last.get(stage, {}) if stage is not None else {}
        note = Notification(
            kind, state, level, title, self._run, stage=stage, links=dict(self._links), **{**last, **what}
        )
        self._dispatcher.tell(note)
        if self._emits and kind in _EMITTED and level != "debug":
            redact = self._dispatcher.redact
            emit_event(
                event=f"sana.{kind}.{state}",
                resource={
                    "prefect.resource.id": f"sana.pipeline.{self._tracker.key}",
                    "prefect.resource.name": redact(self._name),
                },
                payload=note.values(redact),
            )


def _level(name: str) -> Level:
    level: Level = name  # type: ignore[assignment]
    return level


def _ended(state: str) -> str:
    return {"completed": "is complete", "done": "is done", "reproduced": "is complete, with the same content"}.get(
        state, state if state == FAILED else f"was {state}" if state == STOPPED else f"is {state}"
    )


def _pages(tracker: Tracker) -> dict[str, str]:
    """Return the pages of this run on the servers of MLflow and Prefect, where those are servers."""
    pages = {}
    if prefect := tracker.facts.get("prefect.flow_run_url"):
        pages["prefect"] = without_password(prefect)
    if mlflow := mlflow_page(tracker):
        pages["mlflow"] = mlflow
    return pages
