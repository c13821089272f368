"""What the live page lists: runs in every state, trainings that are finished, at work or left, in bounded reads."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from flows.web.server import PageServer
from sana.artifact import FileInfo
from sana.report.live import overview, run_index
from sana.report.live.committed import Committed
from sana.report.live.live_page import Topic
from sana.report.live.pages import About
from sana.report.live.run_index import QUIET_S, RunIndex
from sana.report.live.source import LiveRoot
from sana.report.live.tables import PAGE_ROWS
from sana.report.live.trainings import merged
from sana.store import LocalStore, Store, open_store
from sana.store_errors import StoreError
from sana.training.validation import record as validations
from sana.training.validation.record import ValidationRecord, ValidationVideo
from tests.loopback_servers import free_port
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


def test_a_process_whose_parent_does_not_ask_is_gone(store: Store) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays
        record_run(store, "20261128-120000-aaaaaa", pid=pid)
        index = RunIndex(store)
        index.refresh()
        assert index.rows[0].state == "killed"
    finally:
        os.waitpid(pid, 0)


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


def test_a_page_that_is_made_again_reads_only_what_may_have_changed(tmp_path: Path) -> None:
    store = Counting(str(tmp_path / "root"))
    train = commit_training(store, A)
    files = {"a.mp4": FileInfo(f"train/{A}/validation/x/a.mp4", 3, "d" * 32)}
    for step in (50, 100, 150):
        video = ValidationVideo("a.mp4", "bunny", "17x96x160", 0, "ema", "d", False)
        validations.end(store, ValidationRecord(A, step, "s0", 1.0, (video,), {}, files))
    root = LiveRoot(store, About("root"))
    root.refresh()
    first = root.page(Topic("training", train.fingerprint))
    assert first.parts["samples"].count("<video") == 3  # two validations and a sample; that of step 150 is another's
    root.refresh()
    store.num_reads = 0
    assert root.page(Topic("training", train.fingerprint)) == first and store.num_reads == 0


def test_a_root_that_is_taken_away_is_not_an_empty_one(store: Store, tmp_path: Path) -> None:
    root = LiveRoot(store, About("root"))
    root.refresh()  # there is none yet
    train = commit_training(store, A)
    root.refresh()
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(StoreError, match="is gone"):
        root.refresh()
    assert train.fingerprint in root.page(Topic("overview")).parts["trainings"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ui"], "name a config or a root"),
        (["ui", ".", "-s", "a=b"], "takes no --root and no -s"),
        (["ui", ".", "--root", "x"], "takes no --root and no -s"),
    ],
)
def test_a_root_that_is_not_clear_is_asked_for(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2 and words in result.output


def test_an_address_that_others_reach_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr(PageServer, "__enter__", lambda self: served.append(self.url) or self)
    monkeypatch.setattr(PageServer, "__exit__", lambda self, *error: self._socket.close())
    monkeypatch.setattr(PageServer, "wait", lambda self: None)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    for host, is_warned in (("127.0.0.1", False), ("0.0.0.0", True)):  # noqa: S104
        arguments = ["ui", "--root", str(tmp_path), "--host", host, "--port", str(free_port())]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0 and ("whoever reaches this machine" in result.output) is is_warned
    assert len(served) == 2
