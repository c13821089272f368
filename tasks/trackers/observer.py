"""Trackers beside MLflow as observers: what one cannot take is one warning, and fails or delays nothing."""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import yaml

from sana.artifact import Recipe
from sana.config.delivery.tracking import TrackerConfig
from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.facts import EvaluateFacts
from sana.metrics import OF_ONE_SIGMA, STEP, Row
from sana.pipeline.observers import CACHED, Committed, Event, Observer, RunStart, WorkStart
from sana.wording import one_line
from tasks.trackers.sent import Sent
from tasks.tracking.values import resolved_yaml, run_name

MAX_WAITING = 2000  # batches of rows; more are dropped, and it is said
DRAIN_S, KILLED_DRAIN_S = 20.0, 1.0  # for what is left at the end
log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where the curves of one training go; called by one thread."""

    def rows(self, rows: Sequence[Row]) -> None: ...
    def results(self, results: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TrackerObserver(Observer):
    """Gives the curves and the result of a training to one tracker, in a thread of its own."""

    def __init__(self, tracker: TrackerConfig, config: Config, key: str) -> None:
        self._tracker, self._config, self._key = tracker, config, key
        self._title = ""
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        self._broken = False
        self._is_left = False  # the run has ended without it
        self._recipe: Recipe | None = None
        self._sent: Sent | None = None
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None

    def on_run_start(self, start: RunStart) -> None:
        self._title = start.title

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        if stage == "train" and rows:
            kept = [{k: v for k, v in row.items() if v is not None and not k.startswith(OF_ONE_SIGMA)} for row in rows]
            self._add(lambda: self._send(kept))

    def on_event(self, event: Event) -> None:
        match event:
            case WorkStart(stage="train") | Committed(stage="train"):
                self._recipe = event.recipe
            case Committed() if event.state != CACHED and (losses := EvaluateFacts.find(event.artifact)):
                self._add(lambda: self._send_results(losses))
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        if self._thread is None:
            return
        drain_s = DRAIN_S if error is None or isinstance(error, Exception) else KILLED_DRAIN_S
        until = time.monotonic() + drain_s
        try:
            self._queue.put(None, timeout=drain_s)
        except queue.Full:
            self._dropped += self._queue.qsize()
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._is_left = True
            log.warning("%s has not taken all within %g s; the run ends without it", self._tracker.kind, drain_s)
        if self._dropped:
            log.warning("%s was slow: %d batches of metrics were left out", self._tracker.kind, self._dropped)

    def _add(self, call: Callable[[], None]) -> None:
        if self._broken or self._recipe is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._tracker.kind, daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        try:
            trouble = _trouble(self._tracker.kind)
        except ImportError as error:
            self._give_up(error)
            return
        while (call := self._queue.get()) is not None:
            try:
                call()
            except trouble as error:
                self._give_up(error)
                return
        try:
            if self._sink is not None:
                self._sink.close()
        except trouble as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._is_left:  # it was said
            return
        self._broken = True
        why = one_line(str(error) or type(error).__name__)[:300]
        log.warning("%s does not work: %s. The run continues without it; MLflow has all", self._tracker.kind, why)

    def _send(self, rows: Sequence[Row]) -> None:
        sink, sent = self._opened()
        sink.rows(rows)
        sent.keep(max(int(row[STEP]) for row in rows))

    def _send_results(self, losses: EvaluateFacts) -> None:
        found = {f"result/eval_loss_{name}": weights.mean for name, weights in losses.weights.items()}
        found |= {f"result/relative_drop_{name}": paired.relative_drop for name, paired in losses.paired.items()}
        self._opened()[0].results(found)

    def _opened(self) -> tuple[Sink, Sent]:
        assert self._recipe is not None  # nothing is added before
        if self._sink is None or self._sent is None:
            kept = Path(self._config.work_dir).absolute() / "trackers"
            place = re.sub(r"\W", "_", f"{self._tracker.folder or ''}{self._tracker.project or ''}")
            self._sent = Sent.of(kept / f"{self._tracker.kind}{place}-{self._recipe.fingerprint}.json")
            self._sink = self._sink_of(self._recipe, self._sent)
        return self._sink, self._sent

    def _sink_of(self, recipe: Recipe, sent: Sent) -> Sink:
        one, config = self._tracker, self._config
        own = Path(config.work_dir) / ("tensorboard" if one.kind == "tensorboard" else "")  # wandb makes its own in it
        folder = at_home(one.folder or own).absolute()
        template = one.name or config.tracking.run_name
        name = run_name(config, template, title=self._title, key=self._key, started_s=sent.started_s)
        if one.kind == "tensorboard":
            from tasks.trackers.tensorboard import TensorBoard

            # a folder's name, and one for each training whatever the template has
            folder_name = f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name).lstrip('.')}-{recipe.fingerprint[:8]}"
            return TensorBoard(one, folder=folder, name=folder_name, sent=sent)
        from tasks.trackers.wandb import WeightsAndBiases

        project = one.project or re.sub(r"[/\\#?%:]", "-", config.tracking.experiment)
        settings = yaml.safe_load(resolved_yaml(config))
        return WeightsAndBiases(
            one, folder=folder, name=name, sent=sent, project=project, run_id=recipe.fingerprint, settings=settings
        )


def _trouble(kind: str) -> tuple[type[Exception], ...]:
    """Return what a tracker raises where it is away, full or refuses, or has a fault of its own."""
    faults = (AttributeError, TypeError, LookupError, ArithmeticError, AssertionError, EOFError)
    common: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *faults)
    if kind == "wandb":
        from tasks.trackers.wandb import TROUBLE

        return (*common, *TROUBLE)
    return common


def trackers_of(config: Config, key: str) -> list[Observer]:
    """Return an observer for each tracker of a config."""
    return [TrackerObserver(one, config, key) for one in config.tracking.also]
