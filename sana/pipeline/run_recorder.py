"""The observer that keeps a run's own record in the root, from which others see it: `sana/runs/records.py`.

A thread of its own writes it: nobody waits for storage, and storage that is away costs only what is shown.
"""

import importlib.metadata
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sana.artifact import Artifact, Recipe
from sana.errors import why_ended
from sana.facts import TrainFacts
from sana.metrics import STEP, Row
from sana.pipeline.observers import (
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
from sana.runs import records
from sana.runs.records import EventNote, RunEnded, RunStarted, RunStatus, StageStatus
from sana.runtime.process_id import this_process
from sana.stages.train import trajectory_of
from sana.store import Store
from sana.store_errors import StoreError
from sana.wording import counted

INTERVAL_S, REMOTE_INTERVAL_S = 5.0, 15.0
HEARTBEAT_S = 20.0  # without news it is written so often
END_S = 10.0  # so long a run waits at its end for its record
_MAX_ERROR = 5000  # characters

log = logging.getLogger(__name__)


class RunRecorder(Observer):
    """Writes the record of a run that has work to do; a run that finds everything cached leaves none.

    `config` is the config as YAML without passwords, `links` gives the pages of the run that are known by now.
    """

    def __init__(
        self,
        config: str,
        pipeline_key: str,
        links: Callable[[], Mapping[str, str]] = dict,
        *,
        interval_s: float | None = None,
    ) -> None:
        self._config, self._pipeline_key, self._links = config, pipeline_key, links
        self._interval_s = interval_s
        self.run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self._title = ""
        self._store: Store | None = None
        self._status = RunStatus(self.run_id, 0.0, {})
        self._pace: Pace | None = None  # from the first count of a stage on
        self._lock = threading.Lock()  # of the status
        self._news = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._ended: RunEnded | None = None
        self._warned = False

    def on_run_start(self, start: RunStart) -> None:
        self._title, self._store = start.title, start.context.store

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        pace = self._pace
        if progress.total > 0:  # what is done at the first count took none of this run's time
            pace = self._pace = pace or Pace(now, progress.done)
            pace.add(progress.done, now)
        self._set(
            stage,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            detail=_plain(progress.phase or progress.detail),
            per_s=pace.per_s(now) if pace and progress.total else None,
            left_s=pace.left_s(progress.total, now) if pace and progress.total else None,
        )

    def on_metrics(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        if stage == "train":
            finite = [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]
            with self._lock:
                self._status = replace(self._status, rows=thinned((*self._status.rows, *finite)))
            self._news.set()

    def on_event(self, event: Event) -> None:
        match event:
            case WorkStart():
                self._pace = None
                self._begin(event.stage, event.recipe)
            case Committed():
                self._committed(event.artifact, event.state)
            case WorkEvent():
                self._happened(event.stage, event.what)
            case StageEnd() if event.state in (FAILED, STOPPED):
                self._stage_failed(event)
            case _:
                pass

    def on_run_end(self, error: BaseException | None) -> None:
        thread = self._thread
        if thread is None:
            return
        state: records.RunEnd = (
            "completed" if error is None else "failed" if isinstance(error, Exception) else "stopped"
        )
        text = "" if error is None else (str(error) or type(error).__name__)[:_MAX_ERROR]
        if error is not None and state == "stopped":
            text = f"{why_ended(error)}{self._where()}; run the same command again"
        self._ended = RunEnded(self.run_id, state, time.time(), _plain(text))
        self._ending.set()
        self._news.set()
        thread.join(END_S)
        if thread.is_alive():
            log.warning("storage took more than %.0f s: how this run ended may be missing in its record", END_S)

    def _where(self) -> str:
        """Say at which stage and count a stop came; "" between two stages."""
        with self._lock:
            open_ = ("running", "stopped", "failed")  # failed: what was to be tried again
            ended = [(name, one) for name, one in self._status.stages.items() if one.state in open_]
        if not ended:
            return ""
        name, stage = ended[-1]
        at = f", step {stage.done}" if stage.unit == "steps" else f", {stage.done} of {stage.total} {stage.unit}"
        return f" at stage {name}{at if stage.total else ''}"

    def _begin(self, stage: str, recipe: Recipe) -> None:
        begun = StageStatus("running", time.time(), fingerprint=recipe.fingerprint)
        with self._lock:
            trajectory = trajectory_of(recipe) if stage == "train" else self._status.trajectory
            stages = {**self._status.stages, stage: begun}
            self._status = replace(self._status, stages=stages, trajectory=trajectory)
        self._start()

    def _committed(self, artifact: Artifact, state: str) -> None:
        counts = artifact.counts
        self._set(
            artifact.stage,
            state=state,
            ended_at=time.time(),
            fingerprint=artifact.fingerprint,
            num_in=counts.num_in,
            num_out=counts.num_out,
            num_rejected=counts.num_rejected,
            left_s=None,
        )
        if (trained := TrainFacts.find(artifact)) is not None:
            with self._lock:  # the artifact names all of its metrics
                self._status = replace(self._status, trajectory=trained.trajectory, rows=())

    def _stage_failed(self, event: StageEnd) -> None:
        text = why_ended(event.error) if event.error is not None else ""
        kind = "failed" if event.state == FAILED else "stopped"
        self._set(event.stage, state=kind, ended_at=time.time(), error=_plain(text), detail="", left_s=None)
        self._note(event.stage, "error", text)
        self._start()

    def _happened(self, stage: str, what: Happening) -> None:
        match what:
            case CheckpointSaved():
                trajectory = what.key.split("/")[1]
                with self._lock:  # it has the metrics up to its step
                    rows = tuple(row for row in self._status.rows if row[STEP] > what.step)
                    self._status = replace(self._status, rows=rows, trajectory=trajectory)
                self._note(stage, "checkpoint", f"checkpoint of step {what.step}", what.key)
            case ValidationDone():
                text = f"validation of step {what.step}: {what.error or counted(len(what.videos), 'video')}"
                self._note(stage, "validation", text, what.record)
            case PreviewReady():
                text = f"preview of {what.prompt}: sampler step {what.sampler_step} of {what.num_sampler_steps}"
                self._note(stage, "preview", text)

    def _note(self, stage: str, kind: str, text: str, key: str = "") -> None:
        note = EventNote(time.time(), stage, kind, _plain(text), key)  # type: ignore[arg-type]
        with self._lock:
            self._status = replace(self._status, events=(*self._status.events, note)[-records.MAX_EVENTS :])
        self._news.set()

    def _set(self, stage: str, **changes: object) -> None:
        with self._lock:
            before = self._status.stages.get(stage) or StageStatus("running", time.time())
            stages = {**self._status.stages, stage: replace(before, **changes)}  # type: ignore[arg-type]
            self._status = replace(self._status, stages=stages)
        self._news.set()

    def _start(self) -> None:
        self._news.set()
        if self._thread is None and self._store is not None:
            self._thread = threading.Thread(target=self._write, args=(self._store,), name="run record", daemon=True)
            self._thread.start()

    def _write(self, store: Store) -> None:
        started = RunStarted(
            run_id=self.run_id,
            title=_plain(self._title),
            pipeline_key=self._pipeline_key,
            config=_plain(self._config),
            host=socket.gethostname(),
            process=this_process(),
            started_at=time.time(),
            version=importlib.metadata.version("sana-video-pipeline"),
        )
        interval_s = self._interval_s or (INTERVAL_S if store.is_local else REMOTE_INTERVAL_S)
        key, data = records.start_key(self.run_id), started.to_json()
        is_begun = False
        while True:
            self._news.clear()
            is_last = self._ending.is_set()
            is_begun = is_begun or self._try(lambda: store.put_if_absent(key, data))
            is_written = is_begun and self._try(lambda: self._write_status(store))
            if is_last:
                self._write_end(store)
                return
            self._ending.wait(interval_s)
            if is_written:  # else it is tried again
                self._news.wait(max(HEARTBEAT_S - interval_s, 0.0))

    def _write_status(self, store: Store) -> None:
        with self._lock:
            status = replace(self._status, updated_at=time.time(), links=dict(self._links()))
        number = self._number + 1
        store.put_if_absent(records.status_key(self.run_id, number), status.to_json(indent=None))
        if self._number:
            store.delete(records.status_key(self.run_id, self._number))
        self._number = number

    def _write_end(self, store: Store) -> None:
        if (ended := self._ended) is not None:
            self._try(lambda: store.put_if_absent(records.end_key(self.run_id), ended.to_json()))

    def _try(self, call: Callable[[], object]) -> bool:
        """Make a call; False when storage does not take it, with one warning."""
        try:
            call()
        except (StoreError, OSError) as error:
            if not self._warned:
                log.warning("what others see of this run is not written (%s); the run continues", error)
            self._warned = True
            return False
        return True


def _plain(text: str) -> str:
    """Return a text that JSON holds: bytes of a file's name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def thinned(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return at most MAX_ROWS rows: of the older half every second one, but none that has more than the loss."""
    if len(rows) <= records.MAX_ROWS:
        return tuple(rows)
    half = len(rows) // 2
    old = [row for number, row in enumerate(rows[:half]) if number % 2 or _is_rare(row)]
    return (*old, *rows[half:])[-records.MAX_ROWS :]


def _is_rare(row: Row) -> bool:
    return any(name.startswith(("eval/", "validation/")) for name in row)
