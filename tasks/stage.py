"""What all stage tasks share: storage is asked first, what is missing is made, recorded and checked."""

import logging
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID, uuid4

import httpx
from prefect import Task, runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.states import Completed

import sana
from sana import artifact as artifacts
from sana.artifact import Artifact, Recipe
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.tables import check_rejects
from sana.errors import SanaError
from sana.pipeline import graph
from sana.progress import Progress, publish
from sana.runtime.launcher import WorkerError, WorkerStartError
from sana.store import StoreError, open_store
from tasks.report import StageBook, record_report
from tasks.tracking import Tracker
from tasks.tracking_values import pipeline_key

CHEAP_TIMEOUT_S = 600.0  # for stages that start no worker; a worker has a watchdog of its own
RETRY_DELAYS_S = [10.0, 120.0]
TRANSIENT = (WorkerError, StoreError, ConnectionError, TimeoutError)
ARTIFACT_EVERY_S = 2.0  # each update is a call to Prefect's server

log = logging.getLogger(__name__)


class Stage(Protocol):
    """What a module in sana/stages holds, as far as tasks use it."""

    NAME: str

    def recipe(self, context: Context, inputs: Mapping[str, Artifact]) -> Recipe: ...

    def run(self, context: Context, inputs: Mapping[str, Artifact]) -> Artifact: ...


class PipelineRun:
    """What every task of one flow run is given: a context manager around the whole of it.

    Not a dataclass: Prefect walks through those to look for futures.
    """

    def __init__(self, title: str, config: Config, force: Iterable[str]) -> None:
        """`title` is what a reader knows the config by. Raises StoreError when the root cannot be opened."""
        self.context = Context(config, open_store(config.root), Path(config.work_dir).absolute())
        self.title = title
        self.stages = StageBook()
        self.force = frozenset(force)
        self.salt = uuid4().hex[:8]  # of forced stages: one for all tries, so that a retry keeps what is done
        self.tracker = Tracker(config, self.context.store, pipeline_key(config), _facts())

    def __enter__(self) -> Self:
        self.tracker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):  # of a cancel little time is left
            record_report(self.tracker, self.context, self.title, self.stages.states(error))
        self.tracker.__exit__(kind, error, trace)


def open_run(config: str, overrides: Iterable[str], root: str | None, force: Iterable[str]) -> PipelineRun:
    """Read a config and prepare a run of it; `root`, where given, replaces the config's.

    Raises:
        ConfigError: the config is wrong.
        StoreError: the root cannot be opened.
    """
    loaded = load_config(config, list(overrides))
    return PipelineRun(Path(config).stem, loaded.model_copy(update={"root": root}) if root else loaded, force)


def run_stage(stage: Stage, run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
    """Return a state whose data is the stage's artifact: Cached, Completed, or, for equal content again, Reproduced.

    Raises:
        RejectedError: more clips were rejected than the data sets allow.
        SanaError, WorkerError, StoreError: as the stage says.
    """
    run.stages.start(stage.NAME)
    recipe = stage.recipe(run.context, inputs)
    tracked = run.tracker.stage(recipe, inputs)
    found = None if stage.NAME in run.force else artifacts.find(run.context.store, recipe)
    if found is not None:
        run.stages.committed(stage.NAME, "Cached", found)
        check_rejects(run.context.config, found)
        run.stages.done()
        tracked.finished(found, "Cached")
        publish(stage.NAME, "cached")
        return Completed(name="Cached", message=run.context.store.uri(found.key), data=found)
    shown = Shown(stage.NAME)

    def report(progress: Progress) -> None:
        tracked.report(progress)
        shown.update(progress)
        publish(stage.NAME, "running", progress)

    log.info("%s: %s starts", stage.NAME, recipe.fingerprint)
    salt = run.salt if stage.NAME in run.force else ""
    with _published(stage.NAME), tracked:
        made = stage.run(replace(run.context, report=report, salt=salt), inputs)
        name = "Reproduced" if made.reproduced else "Completed"
        run.stages.committed(stage.NAME, name, made)
        tracked.finished(made, "Completed")
        check_rejects(run.context.config, made)
        run.stages.done()
    log.info("%s: %s committed in %.1f s, %s", stage.NAME, made.fingerprint, made.seconds, made.counts)
    return Completed(name=name, message=run.context.store.uri(made.key), data=made)


def worth_a_retry(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass, and say so: a killed worker, a storage or network error. A rejection or a bug will not pass.

    Prefect asks only while there are retries left.
    """
    error = state.data
    if not isinstance(error, TRANSIENT) or isinstance(error, WorkerStartError):
        return False
    failed = "the worker" if isinstance(error, WorkerError) else "storage"
    if isinstance(error, ConnectionError | TimeoutError):
        failed = "the network"
    reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(" .:")
    delay = RETRY_DELAYS_S[min(task_run.run_count, len(RETRY_DELAYS_S)) - 1]
    tries = f"{task_run.run_count + 1} of {task.retries + 1}"
    log.warning("%s: %s failed (%s); trying again in %g s (%s)", task.name, failed, reason, delay, tries)
    return True


# Of all stage tasks; `tasks/<stage>.py` may say otherwise. Partial work is kept, so trying again is cheap.
POLICY: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # storage knows what is done; Prefect's cache cannot
    "persist_result": False,
    "retries": len(RETRY_DELAYS_S),
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_condition_fn": worth_a_retry,
}


def stage_task(name: str) -> Task[[PipelineRun, Mapping[str, Artifact]], State[Artifact]]:
    """Return a task of the common policy for a stage that has no module in tasks/."""

    def body(run: PipelineRun, inputs: Mapping[str, Artifact]) -> State[Artifact]:
        return run_stage(graph.stage(name), run, inputs)

    return Task(fn=body, name=name, description=graph.about(name), timeout_seconds=graph.timeout_s(name), **POLICY)


@contextmanager
def _published(stage: str) -> Iterator[None]:
    """Tell who watches from inside this process that a stage runs, and how it ended."""
    publish(stage, "running")
    state = "failed"
    try:
        yield
        state = "completed"
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        publish(stage, state)


class Shown:
    """A stage's progress in Prefect's UI: a ring on its task, updated every 2 s at most, never in the way."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._id: UUID | None = None
        self._next = 0.0

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next and progress.done < progress.total:
            return
        self._next = now + ARTIFACT_EVERY_S
        percent = 100.0 * progress.done / max(progress.total, 1)
        text = f"{self._stage}: {progress.done} of {progress.total} {progress.unit} {progress.detail}".rstrip()
        try:
            if self._id is None:
                self._id = create_progress_artifact(progress=percent, description=text)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, progress=percent, description=text)
        except (httpx.HTTPError, PrefectException) as error:
            log.debug("progress is not shown in Prefect: %s", error)


class _Plain(logging.Filter):
    """An error that is meant for the user is logged as its message, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SanaError | StoreError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for _name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(_name).addFilter(_Plain())


def _facts() -> dict[str, str]:
    """What may differ from run to run: tags of the tracker."""
    url = runtime.flow_run.ui_url or ""
    return {
        "host": socket.gethostname(),
        "mlflow.source.git.commit": _git_commit(),
        "prefect.flow_run_id": runtime.flow_run.id or "",
        "prefect.flow_run_url": url if url.startswith("http") else "",  # "None/..." without a server
    }


def _git_commit() -> str:
    folder = Path(sana.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
