"""What is tried again, and that it is said."""

import logging

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from sana.errors import ConfigError, DiskFullError, RejectedError
from sana.pipeline import graph
from sana.runtime.launcher import WorkerError, WorkerStartError
from sana.store_errors import StoreError, StoreFullError
from tasks.stages import task_of

pytestmark = pytest.mark.timeout(60)


def ask(error: Exception, *, run_count: int = 1, stage: str = "encode_latents") -> bool:
    """Ask the task's own condition as Prefect does, after its attempt number `run_count` failed."""
    task = task_of(stage)
    run = TaskRun(task_key=task.task_key, dynamic_key="0", run_count=run_count)
    return bool(task.retry_condition_fn(task, run, Failed(data=error)))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StoreError("s3://b: 503"), "storage failed (s3://b: 503); trying again in 10 s (2 of 3)"),
        (WorkerError("was killed by SIGKILL. Log:\n  a\n  b"), "the worker failed (was killed by SIGKILL. Log);"),
        (ConnectionResetError("reset by peer"), "the network failed (reset by peer)"),
        (TimeoutError(), "the network failed (TimeoutError)"),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again_and_said(caplog: pytest.LogCaptureFixture, error: Exception, says: str) -> None:
    with caplog.at_level(logging.WARNING, logger="tasks"):
        assert ask(error)
    assert caplog.messages[0].startswith(f"encode_latents: {says}") and "\n" not in caplog.text.strip()


def test_the_second_retry_waits_longer(caplog: pytest.LogCaptureFixture) -> None:
    assert ask(StoreError("full"), run_count=2)
    assert "trying again in 120 s (3 of 3)" in caplog.text


@pytest.mark.parametrize("error", [
    ConfigError("x"), RejectedError("x"), WorkerStartError("x"), KeyError("x"), StoreFullError("x"), DiskFullError("x"),
])  # fmt: skip
def test_what_will_not_pass_is_not(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    assert not ask(error)
    assert caplog.messages == []


def test_every_stage_has_the_policy_and_its_own_name() -> None:
    tasks = [task_of(name) for name in graph.STAGES]
    assert tuple(task.name for task in tasks) == graph.STAGES
    assert len({task.task_key for task in tasks}) == len(tasks)
    for task in tasks:
        assert (task.retries, list(task.retry_delay_seconds), task.persist_result) == (2, [10.0, 120.0], False)
        assert task.cache_policy is not None and task.retry_condition_fn is not None
    assert {task.name for task in tasks if task.timeout_seconds} == {"bucket", "filter_captions"}
