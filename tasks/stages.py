"""The tasks: one for each stage, made from the graph. How often each is tried, how long it may take, how it ends."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed

from sana.artifact import Artifact
from sana.errors import DiskFullError
from sana.pipeline import graph
from sana.pipeline.run import Before, Run, run_stage
from sana.runtime.launcher import WorkerError, WorkerStartError
from sana.store_errors import StoreError
from tasks.form_terms import as_the_form_says
from tasks.remote_workers import run_remote_workers

RETRY_DELAYS_S = [10.0, 120.0]
TRANSIENT = (WorkerError, StoreError, ConnectionError, TimeoutError)

log = logging.getLogger(__name__)


def worth_a_retry(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass, and say so: a killed worker, a storage or network error. A rejection or a bug will not pass.

    Prefect asks only while there are retries left.
    """
    error = state.data
    if not isinstance(error, TRANSIENT) or isinstance(error, WorkerStartError | DiskFullError):
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


# Called when there is work to do, before the stage itself is.
_BEFORE: Mapping[str, Before] = {"encode_latents": run_remote_workers}


@cache
def task_of(name: str) -> Task[[Run, Mapping[str, Artifact]], State[Artifact]]:
    """Return the task of a stage; every stage of the graph has one."""

    def stage_task(run: Run, inputs: Mapping[str, Artifact]) -> State[Artifact]:
        with as_the_form_says():
            done = run_stage(run, graph.stage(name), inputs, before=_BEFORE.get(name))
        uri = run.context.store.uri(done.artifact.key)
        return Completed(name=done.state.capitalize(), message=uri, data=done.artifact)

    stage_task.__name__ = stage_task.__qualname__ = name  # Prefect makes the task's key of it
    about, timeout_s = graph.about(name), graph.timeout_s(name)
    return Task(fn=stage_task, name=name, task_run_name=name, description=about, timeout_seconds=timeout_s, **POLICY)
