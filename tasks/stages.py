"""The tasks: one for each stage, made from the graph. How often each is tried, how long it may take, how it ends."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed

from sana.artifact import Artifact
from sana.context import Context
from sana.pipeline import graph
from sana.pipeline.run import Run, run_stage
from sana.runtime.launcher import WorkerError, WorkerStartError
from sana.store import StoreError
from tasks.remote_workers import run_remote_workers

RETRY_DELAYS_S = [10.0, 120.0]
TRANSIENT = (WorkerError, StoreError, ConnectionError, TimeoutError)

log = logging.getLogger(__name__)


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


# Of all stage tasks. Partial work is kept, so trying again is cheap.
POLICY: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # storage knows what is done; Prefect's cache cannot
    "persist_result": False,
    "retries": len(RETRY_DELAYS_S),
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_condition_fn": worth_a_retry,
}


@dataclass(frozen=True)
class _Own:
    """What one stage's task does otherwise; a stage that starts a worker has a watchdog and needs no timeout."""

    timeout_s: float | None = None
    before: Callable[[Context, Mapping[str, Artifact]], None] | None = None  # called when there is work to do


_OWN = {"bucket": _Own(timeout_s=600.0), "encode_latents": _Own(before=run_remote_workers)}

StageTask = Task[[Run, Mapping[str, Artifact]], State[Artifact]]


def _task_of(name: str) -> StageTask:
    module, own = graph.stage(name), _OWN.get(name, _Own())

    def stage_task(run: Run, inputs: Mapping[str, Artifact]) -> State[Artifact]:
        done = run_stage(run, module, inputs, before=own.before)
        uri = run.context.store.uri(done.artifact.key)
        return Completed(name=done.state.capitalize(), message=uri, data=done.artifact)

    stage_task.__name__ = stage_task.__qualname__ = name  # Prefect makes the task's key of it
    stage_task.__doc__ = module.__doc__
    return task(name=name, timeout_seconds=own.timeout_s, **POLICY)(stage_task)


TASKS: Mapping[str, StageTask] = {name: _task_of(name) for name in graph.STAGES}
