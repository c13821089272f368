"""What the live page lists: runs in every state, trainings that are finished, at work or left, in bounded reads."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana.report.live import overview, run_index
from sana.report.live.committed import Committed
from sana.report.live.live_page import Topic
from sana.report.live.run_index import QUIET_S, RunIndex
from sana.report.live.tables import PAGE_ROWS
from sana.report.live.trainings import merged
from sana.store import LocalStore, Store, open_store
from tests.trained_roots import commit_training, record_run

A, B = "0000aaaa0000aaaa", "0000bbbb0000bbbb"
NOW = time.time()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def gone_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.parametrize(
    ("how", "state", "is_live"),
    [
        ({}, "running", True),
        ({"heard_at": NOW - 600}, "silent", True),
        ({"heard_at": NOW - 2 * QUIET_S}, "silent", False),
        ({"pid": -1}, "killed", True),
        ({"end": "failed", "error": "no room"}, "failed", False),
        ({"end": "completed"}, "completed", False),
        ({"end": "stopped"}, "stopped", False),
    ],
)
def test_a_run_is_in_the_state_that_its_records_say(
    store: Store, how: dict[str, Any], state: str, is_live: bool
) -> None:
    if how.get("pid") == -1:
        how = {"pid": gone_pid()}
    record_run(
        store, "20261128-120000-aaaaaa", trajectory=A, fingerprint=B, rows=[{"step": 7, "train/loss": 1.0}], **how
    )
    index = RunIndex(store)
    index.refresh()
    [row] = index.rows
    assert (row.state, row.step, row.stage, row.error) == (state, 30, "train", how.get("error", ""))
    assert (row.run_id in index.live) is is_live
    assert (row.method, row.data) == (("lora", "cats") if is_live else ("", ""))
    assert index.of_training(A, B) == [row] and index.of_training(A, "other") == []


class Counting(LocalStore):
    """A folder that counts what is read of it."""

    num_reads = 0

    def read(self, key: str) -> bytes:
        self.num_reads += 1
        return super().read(key)


def test_what_has_ended_is_read_once_and_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "MAX_NEW", 8)
    store = Counting(str(tmp_path / "root"))
    for number in range(8 + 5):
        record_run(store, f"20261128-{number:06d}-aaaaaa", end="completed")
    record_run(store, "20261129-000000-aaaaaa")
    index = RunIndex(store)
    index.refresh()
    assert (len(index.rows), index.num_unread) == (8, 6)
    assert index.rows[0].run_id == "20261129-000000-aaaaaa"  # the newest come first
    index.refresh()
    assert (len(index.rows), index.num_unread) == (14, 0)
    store.num_reads = 0
    index.refresh()
    assert store.num_reads == 3  # of the one that runs
    assert not [row for row in index.rows[1:] if row.state != "completed"]


def test_a_damaged_run_and_one_that_is_just_beginning_are_left_out(store: Store) -> None:
    store.put_if_absent("runs/20261128-120000-aaaaaa/start.json", b"{")
    store.put_if_absent("runs/20261128-120001-bbbbbb/status/00000000.json", b"{}")
    index = RunIndex(store)
    index.refresh()
    assert not index.rows
    record_run(store, "20261128-120001-bbbbbb")
    with pytest.raises(LookupError, match="no run 20261128-120001-bbbbbb"):
        index.run("20261128-120001-bbbbbb")


def states_of(store: Store) -> dict[str, str]:
    committed, index = Committed(store), RunIndex(store)
    committed.refresh()
    index.refresh()
    known = {"history", *(row.fingerprint for row in committed.trainings)}
    begun = [name for name in store.list_dirs("train") if name not in known]
    return {row.key: row.state for row in merged(committed.trainings, begun, index.rows)}


def test_a_training_is_listed_once_from_its_beginning_to_its_end(store: Store) -> None:
    fingerprint = "c0ffee00c0ffee00"
    record_run(store, "20261128-120000-aaaaaa", trajectory=A, fingerprint=fingerprint, pid=gone_pid())
    assert states_of(store) == {A: "killed"}
    record_run(store, "20261128-120100-bbbbbb", trajectory=A, fingerprint=fingerprint)
    assert states_of(store) == {A: "running"}
    train = commit_training(store, A)
    assert states_of(store) == {train.fingerprint: "completed", A: "running"}  # to another number of steps
    record_run(store, "20261128-120200-cccccc", trajectory=A, fingerprint=train.fingerprint, end="failed")
    store.put_if_absent(f"train/{B}/checkpoints/step_00000010/index.json", b"{}")
    assert states_of(store) == {train.fingerprint: "completed", A: "running", B: "unfinished"}


def test_an_artifact_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    store = Counting(str(tmp_path / "root"))
    commit_training(store, A)
    committed = Committed(store)
    committed.refresh()
    store.num_reads = 0
    committed.refresh()
    assert store.num_reads == 0 and len(committed.trainings) == 1
    commit_training(store, B, steps=50)
    store.num_reads = 0
    committed.refresh()
    assert store.num_reads == 3 and len(committed.trainings) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "1"),
        ({"page": "2"}, "2"),
        ({"page": "99"}, "3"),
        ({"page": "-1"}, "1"),
        ({"page": "x" * 99}, "1"),
        ({"sort": "loss"}, "1"),
        ({"sort": "nonsense", "order": "reverse"}, "1"),
    ],
)
def test_a_table_is_sorted_and_paged_by_its_query_string(store: Store, query: dict[str, str], expected: str) -> None:
    commit_training(store, A)
    committed = Committed(store)
    committed.refresh()
    [row] = committed.trainings
    rows = [replace(row, fingerprint=f"{n:016x}", step=n) for n in range(2 * PAGE_ROWS + 1)]
    topic = Topic("overview", "", tuple(query.items()))
    page = overview.parts(rows, RunIndex(store), topic)[1]["trainings"]
    assert f"page {expected} of 3" in page
    found = overview.parts(rows, RunIndex(store), Topic("overview", "", (("find", f"{7:016x}"),)))[1]["trainings"]
    assert "1 of 101 trainings" in found
    none = overview.parts(rows, RunIndex(store), Topic("overview", "", (("state", "failed"),)))[1]["trainings"]
    assert "None of 101 is like that" in none
