"""Checkpoints are written behind training: what goes wrong there, and when, loses no step that was committed."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sana.data.shards.shard_cache import ShardFiles
from sana.errors import ConfigError, DiskFullError, SanaError
from sana.progress import CheckpointSaved, Progress
from sana.runtime.job import Job
from sana.runtime.specs import TrainSpec
from sana.store import Block, LocalStore
from sana.store_errors import StoreAwayError, StoreError
from sana.training.checkpoints import retries
from sana.training.checkpoints.checkpoint import checkpoint_steps
from sana.workers import train as trainer
from sana.workers.train import train
from tests.training_lab import Lab
from tests.training_store import reports_to, train_config

pytestmark = pytest.mark.timeout(240)
Put = Callable[[LocalStore, str, Iterator[Block], Path], bool]


def patch_put(monkeypatch: pytest.MonkeyPatch, put: Put) -> None:
    """Store tensor files by `put(store, key, blocks, staging)`."""
    monkeypatch.setattr(
        LocalStore, "put_blocks_if_absent", lambda store, key, blocks, *, staging: put(store, key, blocks, staging)
    )


def real_put() -> Put:
    method = LocalStore.put_blocks_if_absent
    return lambda store, key, blocks, staging: method(store, key, blocks, staging=staging)


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_saved_is_of_its_step(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = lab.train("straight", max_steps=6, checkpoint_every=2, checkpoint_in_background=False)
    put, reached = real_put(), threading.Event()
    in_time: list[bool] = []
    told: list[CheckpointSaved] = []

    def slow_put(store: LocalStore, key: str, blocks: Iterator[Block], staging: Path) -> bool:
        if "step_00000002" in key:
            in_time.append(reached.wait(60))
        return put(store, key, blocks, staging)

    patch_put(monkeypatch, slow_put)

    def listen(progress: Progress) -> None:
        if progress.done >= 3:
            reached.set()
        told.extend(what for what in progress.happened if isinstance(what, CheckpointSaved))

    train(reports_to(lab.job("behind", max_steps=6, checkpoint_every=2, log_every=1), listen))
    assert in_time == [True] * 4
    assert told == [CheckpointSaved(step, lab.at("behind", step).key) for step in (2, 4, 6)], "each once, the last too"
    for step in (2, 4, 6):
        lab.assert_same(lab.at("straight", step), lab.at("behind", step))
    assert straight.attempt != lab.at("behind", 6).attempt


def test_the_disk_is_full_behind_training(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step hears of it; what was committed before is resumed from."""
    straight = lab.train("straight", max_steps=6, checkpoint_every=2)
    put = real_put()

    def full(store: LocalStore, key: str, blocks: Iterator[Block], staging: Path) -> bool:
        def some_blocks() -> Iterator[Block]:
            yield next(blocks)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the disk")

        return put(store, key, some_blocks() if "step_00000004" in key else blocks, staging)

    with monkeypatch.context() as patch:
        patch_put(patch, full)
        with pytest.raises(DiskFullError, match="step_00000004.*the disk is full"):
            lab.train("full", max_steps=6, checkpoint_every=2)
    assert checkpoint_steps(lab.store, lab.key("full")) == [2]
    assert not lab.store.incomplete_uploads(older_than_s=-9, delete=False)
    lab.assert_same(straight, lab.train("full", max_steps=6, checkpoint_every=2))


def test_storage_that_is_away_for_a_while_is_waited_for_behind_training(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    straight = lab.train("straight", max_steps=4, checkpoint_every=2)
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    put, tries = real_put(), iter(range(99))

    def away(store: LocalStore, key: str, blocks: Iterator[Block], staging: Path) -> bool:
        number = next(tries)
        if number == 2:
            put(store, key, blocks, staging)  # it got through, but the answer is lost
        if number < 3:
            raise StoreError("s3://b/k: no connection")
        return put(store, key, blocks, staging)

    patch_put(monkeypatch, away)
    lab.assert_same(straight, lab.train("away", max_steps=4, checkpoint_every=2))
    assert caplog.text.count("it is tried again") == 3
    monkeypatch.setattr(retries, "RETRY_FOR_S", 0.0)
    tries = iter(range(99))
    with pytest.raises(StoreError, match="no connection. It was tried again for 0 s; what was saved before is whole"):
        lab.train("gone", max_steps=4, checkpoint_every=2)


@pytest.mark.parametrize(("times", "error"), [(5, None), (10**6, StoreAwayError), (1, StoreError)])
def test_samples_are_waited_for_while_storage_is_away(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, times: int, error: type | None
) -> None:
    """Not for long, and not where storage refuses: a truncated shard will not heal."""
    straight = lab.train("straight", max_steps=4)
    read_into, lock, left = ShardFiles.read_into, threading.Lock(), times
    raised = error if error is StoreError else StoreAwayError

    def away(files: ShardFiles, shard: str, start: int, buffer: memoryview) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left >= 0:
                raise raised("s3://b/k: no connection")
        read_into(files, shard, start, buffer)

    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "RETRY_FOR_S", 0.1)
    monkeypatch.setattr(ShardFiles, "read_into", away)
    if error is None:
        lab.assert_same(straight, lab.train("away", max_steps=4))
        assert "storage is back after" in caplog.text
    else:
        with pytest.raises(error, match="no connection"):
            lab.train("away", max_steps=4)
    assert ("samples cannot be read now; it is tried again" in caplog.text) == (error is not StoreError)


def test_a_lease_that_is_lost_while_a_checkpoint_is_written_commits_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, lost = real_put(), threading.Event()

    def put_and_lose(store: LocalStore, key: str, blocks: Iterator[Block], staging: Path) -> bool:
        lost.set()
        return put(store, key, blocks, staging)

    def check(_: object) -> None:
        if lost.is_set():
            raise SanaError("another trainer took over")

    patch_put(monkeypatch, put_and_lose)
    monkeypatch.setattr("sana.training.checkpoints.lease.Lease.check", check)
    with pytest.raises(SanaError, match="took over"):
        lab.train("lost", max_steps=6, checkpoint_every=2)
    assert checkpoint_steps(lab.store, lab.key("lost")) == []


def test_what_ends_training_waits_for_the_checkpoint_in_flight(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM at step 3 while step 2 is written: both are complete, and the run goes on from 3. An error: step 2 is."""
    put, began, reached = real_put(), threading.Event(), threading.Event()

    def slow_put(store: LocalStore, key: str, blocks: Iterator[Block], staging: Path) -> bool:
        if "step_00000002" in key:
            assert reached.wait(60)
        began.set()
        return put(store, key, blocks, staging)

    patch_put(monkeypatch, slow_put)
    before = signal.getsignal(signal.SIGTERM)

    def term(progress: Progress) -> None:
        if progress.done == 3 and not reached.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.set()

    try:
        with pytest.raises(SystemExit):
            train(reports_to(lab.job("term", max_steps=8, checkpoint_every=2, log_every=1), term))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert checkpoint_steps(lab.store, lab.key("term")) == [2, 3]

    reached.clear()

    def fail(progress: Progress) -> None:
        if progress.done == 3:
            reached.set()
            raise SanaError("step 3: train/loss nan; all must be finite")

    with pytest.raises(SanaError, match="step 3: train/loss nan"):
        train(reports_to(lab.job("error", max_steps=8, checkpoint_every=2, log_every=1), fail))
    assert checkpoint_steps(lab.store, lab.key("error")) == [2]


def train_and_die_in_an_upload(job: Job[TrainSpec]) -> None:
    """Train in this process, which is killed when half of a file of step 4 is written."""
    put = LocalStore.put_blocks_if_absent

    def half(store: LocalStore, key: str, blocks: Iterator[Block], *, staging: Path) -> bool:
        def first_half() -> Iterator[Block]:
            yield next(blocks)
            yield next(blocks)
            os.kill(os.getpid(), signal.SIGKILL)

        return put(store, key, first_half() if "step_00000004" in key else blocks, staging=staging)

    LocalStore.put_blocks_if_absent = half  # type: ignore[method-assign]  # this process ends with it
    trainer.train(job)


@pytest.mark.slow(group="numbers")
def test_kill_in_the_middle_of_an_upload(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=6, checkpoint_every=2)
    [process] = lab.start(lab.job("killed", max_steps=6, checkpoint_every=2), train_and_die_in_an_upload)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint_steps(lab.store, lab.key("killed")) == [2]
    assert lab.store.incomplete_uploads(older_than_s=-9, delete=False)  # half a file, that no listing shows
    lab.assert_same(straight, lab.train("killed", max_steps=6, checkpoint_every=2))


@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"checkpoint_every": 100, "checkpoint_every_minutes": 1e-6, "max_checkpoints": 3}, [4, 5, 6]),
        ({"checkpoint_every": 100, "milestone_every": 2, "max_checkpoints": 1}, [2, 4, 6]),
        ({"checkpoint_every": 100, "eval_every": 2, "keep_best_checkpoints": 2, "max_checkpoints": 1}, [4, 6]),
    ],
)
def test_when_checkpoints_are_made_and_which_stay(lab: Lab, settings: dict[str, Any], saved: list[int]) -> None:
    lab.train("kept", max_steps=6, **settings)
    assert checkpoint_steps(lab.store, lab.key("kept")) == saved


def test_the_best_checkpoints_need_eval_losses(tmp_path: Path, lab: Lab) -> None:
    with pytest.raises(ConfigError, match="keep_best_checkpoints 1 needs eval losses.*set eval_every"):
        train_config(lab.encoded, tmp_path, lab.model, keep_best_checkpoints=1, eval_every=0)
