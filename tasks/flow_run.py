"""The run of a flow: the library's run, with those who watch it, and what Prefect's log shows of its errors."""

import logging
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect import runtime
from prefect.exceptions import PrefectException

import sana
from sana.config.load import load_config
from sana.context import Context
from sana.errors import ConfigError
from sana.pipeline.advisor import Advisor
from sana.pipeline.observers import Observer
from sana.pipeline.plan import StagePlan
from sana.pipeline.run import Done, Run
from sana.pipeline.run_recorder import RunRecorder
from sana.store import open_store
from tasks.form_terms import as_form
from tasks.notifications import Notifier
from tasks.prefect_pages.observer import PrefectPages
from tasks.prefect_progress import PrefectProgress
from tasks.report import DataReport
from tasks.run_log import tell_errors_once
from tasks.run_report import RunReport
from tasks.trackers.observer import trackers_of
from tasks.tracking.dead_runs import RECORD
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.registry import RegistryObserver
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, resolved_yaml, tracking_uri

log = logging.getLogger(__name__)
tell_errors_once()

# what Prefect's client raises when its server fails: a RuntimeError where the server does not tell its version
PREFECT_TROUBLE = (httpx.HTTPError, PrefectException, RuntimeError)


@dataclass
class HandedOver:
    """What a flow in this process is given, and, once its stages have ended, how they did."""

    context: Context
    plans: Sequence[StagePlan]
    observers: Sequence[Observer]
    on_temporary_server: bool
    done: list[Done] | None = None
    error: BaseException | None = None


# not a parameter of the flow: Prefect stores those
_HANDED_OVER: ContextVar[HandedOver | None] = ContextVar("_HANDED_OVER", default=None)


@contextmanager
def handed_over(
    context: Context,
    plans: Sequence[StagePlan],
    observers: Sequence[Observer],
    *,
    on_temporary_server: bool = False,
) -> Iterator[HandedOver]:
    """Let a flow that is called in here, in this process, continue with what was planned on this context.

    A source is not listed again between planning and the end of download. A flow run that a deployment starts is given
    nothing: it decides by itself. What is yielded says how the stages ended, should Prefect's server be gone by then.
    """
    given = HandedOver(context, plans, observers, on_temporary_server)
    token = _HANDED_OVER.set(given)
    try:
        yield given
    finally:
        _HANDED_OVER.reset(token)


def is_handed_over() -> bool:
    """Whether the flow at work is given a plan by a caller in this process: `sana run`, not a deployment."""
    return _HANDED_OVER.get() is not None


def open_embedded_tracker(context: Context) -> None:
    """Open MLflow's database in work_dir, which takes 3 s, while Prefect's server comes up."""
    if tracking_uri(context.config).startswith("sqlite:"):
        Tracker(context.config, context.store, "", {}, quiet=True).try_to(lambda client: client.tracking_uri)


@contextmanager
def stages_of(run: Run) -> Iterator[list[Done]]:
    """Enter the run; the list is what its stages have done. Whoever handed the run over is told how they ended."""
    done: list[Done] = []
    given = _HANDED_OVER.get()
    try:
        with run:
            yield done
    except BaseException as error:
        if given:
            given.error = error
        raise
    if given:
        given.done = done


def open_run(config: str, overrides: Iterable[str], root: str | None, force: Iterable[str]) -> Run:
    """Prepare a run of what was handed over, else of a config; `root`, where given, replaces the config's.

    Raises:
        ConfigError: the config is wrong.
        StoreError: the root cannot be opened.
    """
    given = _HANDED_OVER.get()
    context = given.context if given else context_of(config, overrides, root)
    temporary = given is not None and given.on_temporary_server
    facts = _facts(with_link=not temporary)  # its address leads nowhere once the run has ended
    recorder = _recorder(context, pipeline_key(context.config), facts)
    facts = {**facts, RECORD: recorder.run_id}
    tracker = Tracker(context.config, context.store, pipeline_key(context.config), facts)
    # started in this order and ended in the opposite one: the report is kept before MLflow's run is ended. Those given
    # hear first: what they show does not wait for MLflow's files
    progress = PrefectProgress(return_s=0.0) if temporary else PrefectProgress()
    told = (
        given.observers if given else [Advisor(context.config, lambda line: log.warning("%s", as_form(line, config)))]
    )
    # its last page has links to the tracker's run, which is not ended yet, and waits for no server that is gone
    pages = [] if temporary else [PrefectPages(tracker, config)]
    recorded = [TrackingObserver(tracker), RegistryObserver(tracker), *trackers_of(context.config, tracker.key)]
    observers = [*told, *recorded, *pages, DataReport(tracker), RunReport(tracker), progress]
    if context.config.notifications.targets or (context.config.notifications.prefect_events and not temporary):
        # before `progress`, which at the end may wait for Prefect's server to come back
        observers.append(Notifier(context.config.notifications, tracker, on_server=not temporary))
    observers.append(recorder)  # the last: the first to hear of the end
    plans = given.plans if given else ()
    return Run(context, title=Path(config).stem, force=force, observers=observers, plans=plans)


def _recorder(context: Context, key: str, facts: Mapping[str, str]) -> RunRecorder:
    url = facts["prefect.flow_run_url"]
    return RunRecorder(resolved_yaml(context.config), key, lambda: {"Prefect": url} if url else {})


def context_of(config: str, overrides: Iterable[str], root: str | None) -> Context:
    """Read a config; `root`, where given, replaces the config's.

    Raises:
        ConfigError: the config is wrong.
        StoreError: the root cannot be opened.
    """
    loaded = load_config(config, [*overrides, *([f"root={root}"] if root else [])])
    try:
        store = open_store(loaded.root)
    except ValueError as error:
        raise ConfigError(f"root: {error}") from error
    return Context(loaded, store, Path(loaded.work_dir).absolute())


def _facts(*, with_link: bool) -> dict[str, str]:
    """What may differ from run to run: tags of the tracker."""
    url = (runtime.flow_run.ui_url or "") if with_link else ""
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
