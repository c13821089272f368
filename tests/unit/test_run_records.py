"""What a root says of its runs: begun with the first work, replaced while it goes on, ended once; never in the way."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cli.output.endings import TerminatedError
from sana.artifact import Artifact, Recipe
from sana.counts import Counts
from sana.errors import SanaError
from sana.maintenance.object_graph import kind_of
from sana.metrics import EVAL_LOSS_EMA, STEP, TRAIN_LOSS
from sana.pipeline import run_recorder
from sana.pipeline.observers import CACHED, COMPLETED, FAILED, Committed, RunStart, StageEnd, WorkEvent, WorkStart
from sana.pipeline.run_recorder import RunRecorder, thinned
from sana.progress import CheckpointSaved, Progress
from sana.report.live.run_index import RunIndex
from sana.runs import records
from sana.runs.listing import SILENT_S, Run, read_run, runs_of
from sana.runs.metric_table import metrics_so_far
from sana.runs.trainings import trainings_of
from sana.runtime.process_id import ProcessId, this_host
from sana.stages.train import trajectory_of
from sana.store import LocalStore, Store, open_store
from sana.store_errors import StoreError

RECIPE = Recipe("train", 1, {"max_steps": 9, "seed": 1}, {"latents": "x"})
COUNTS = Counts.all_kept(8)


class PrefectSignal(BaseException):
    """As its TerminationSignal is, raised by name or by place."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


class Driven:
    """A recorder, and the run that it watches."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.recorder = RunRecorder("root: x\n", "key", lambda: {"Prefect": "http://127.0.0.1/x"}, interval_s=0.01)
        context: Any = SimpleNamespace(store=store)
        self.recorder.on_run_start(RunStart("demo", context))

    def work(self, stage: str = "train") -> None:
        self.recorder.on_event(WorkStart(stage, replace(RECIPE, stage=stage), {}))

    def run(self) -> Run | None:
        return read_run(self.store, self.recorder.run_id)

    def seen(self, wanted: Any) -> Run:
        """Return the run as soon as it is so; the test's time limit ends the wait."""
        while (found := self.run()) is None or found.status is None or not wanted(found.status):
            time.sleep(0.005)
        return found


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    one = Driven(open_store(str(tmp_path)))
    yield one
    one.recorder.on_run_end(None)


def test_a_run_is_seen_from_its_first_work_to_its_end(driven: Driven) -> None:
    driven.recorder.on_event(Committed("probe", RECIPE, {}, artifact("probe"), CACHED))
    driven.work()
    driven.recorder.on_stage_progress("train", Progress(3, 9, "steps", "seeing"))
    driven.recorder.on_metrics("train", [{STEP: 2, TRAIN_LOSS: 0.5}, {STEP: 3, TRAIN_LOSS: 0.4}])
    run = driven.seen(lambda status: len(status.rows) == 2 and status.stages["train"].done == 3)
    assert run.status is not None and run.trajectory == trajectory_of(RECIPE)
    assert run.state(time.time()) == "running" and run.started.title == "demo"
    assert list(run.status.stages) == ["probe", "train"] and run.status.stages["probe"].state == "cached"
    assert run.status.links == {"Prefect": "http://127.0.0.1/x"}
    assert metrics_so_far(driven.store, run.trajectory, [run])[STEP].to_pylist() == [2, 3]
    driven.recorder.on_event(Committed("evaluate", RECIPE, {}, artifact("evaluate"), COMPLETED))
    driven.recorder.on_run_end(None)
    [ended] = runs_of(driven.store)
    assert ended.state(time.time()) == "completed" and ended.status is not None
    assert ended.status.stages["evaluate"].num_in == 8
    assert len(driven.store.list(records.status_folder(ended.run_id))) == 1  # the last one alone is kept


def test_what_an_earlier_run_did_counts_in_no_rate(driven: Driven) -> None:
    driven.work()
    driven.recorder.on_stage_progress("train", Progress(0, 0, "steps", phase="loading the model"))
    driven.recorder.on_stage_progress("train", Progress(240, 400, "steps", before=240))
    time.sleep(1.1)  # no rate is told before
    driven.recorder.on_stage_progress("train", Progress(242, 400, "steps", before=240))
    run = driven.seen(lambda status: status.stages["train"].done == 242)
    assert run.status is not None
    stage = run.status.stages["train"]
    assert stage.per_s is not None and 0.5 < stage.per_s < 2
    assert stage.left_s is not None and stage.left_s > 60


def test_what_json_does_not_hold_is_written_in_another_way(driven: Driven) -> None:
    """A loss that is not finite, and names that are no UTF-8, neither end the record nor make it unreadable."""
    driven.work()
    driven.recorder.on_metrics("train", [{STEP: 1, TRAIN_LOSS: float("nan"), "train/grad_norm": float("inf")}])
    driven.recorder.on_metrics("train", [{STEP: 2, TRAIN_LOSS: 0.5}])
    driven.recorder.on_stage_progress("train", Progress(1, 9, "steps", detail="a\udcff.mp4"))
    run = driven.seen(lambda status: len(status.rows) == 2 and status.stages["train"].detail)
    assert run.status is not None and list(run.status.rows) == [{STEP: 1}, {STEP: 2, TRAIN_LOSS: 0.5}]
    error = ValueError("cannot read a\udcff.mp4")
    driven.recorder.on_event(StageEnd("train", FAILED, error))
    driven.recorder.on_run_end(error)
    [ended] = runs_of(driven.store)
    assert ended.ended is not None and ended.ended.error == r"cannot read a\udcff.mp4" and ended.status is not None
    assert ended.status.stages["train"].error == ended.status.events[-1].text == ended.ended.error


def test_what_finds_everything_cached_leaves_no_record(driven: Driven) -> None:
    driven.recorder.on_event(Committed("train", RECIPE, {}, artifact("probe"), CACHED))
    driven.recorder.on_run_end(None)
    assert driven.store.list("") == []


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (ValueError("no"), "failed", ""),
        (KeyboardInterrupt(), "stopped", "stopped by Ctrl-C"),
        (PrefectSignal(signal.SIGTERM), "stopped", "stopped by SIGTERM"),
        (PrefectSignal(signal=15), "stopped", "stopped by SIGTERM"),
        (TerminatedError(10), "stopped", "stopped by SIGUSR1"),
        (SystemExit(75), "stopped", "stopped"),
        (SystemExit(143), "stopped", "stopped by SIGTERM"),
        (SystemExit(130), "stopped", "stopped by Ctrl-C"),
    ],
)
def test_how_it_ended(driven: Driven, error: BaseException, state: str, said: str) -> None:
    """A run that was stopped says by what and where, and how to go on, and names no exception."""
    driven.recorder.on_stage_progress("train", Progress(12, 120, "steps"))
    driven.recorder.on_event(StageEnd("train", FAILED, error))  # also before any work
    driven.recorder.on_run_end(error)
    [run] = runs_of(driven.store)
    assert run.state(0.0) == state and run.ended is not None and run.ended.error
    assert run.status is not None and run.status.events[-1].kind == "error"
    if said:
        assert run.status.events[-1].text == run.status.stages["train"].error == said
        assert run.ended.error == f"{said} at stage train, step 12; run the same command again"
    else:
        assert run.ended.error == "no"


def test_a_stop_within_other_work_counts_it_in_its_unit(driven: Driven) -> None:
    for done, total, said in ((7, 15, "stage probe, 7 of 15 videos"), (0, 0, "stage probe")):
        driven.recorder.on_stage_progress("probe", Progress(done, total, "videos"))
        assert driven.recorder._where() == f" at {said}"


def test_rows_that_a_checkpoint_has_are_left_to_it(driven: Driven) -> None:
    driven.work()
    driven.recorder.on_metrics("train", [{STEP: step, TRAIN_LOSS: 0.5} for step in range(1, 7)])
    driven.recorder.on_event(WorkEvent("train", CheckpointSaved(4, "train/abc/checkpoints/step_00000004/index.json")))
    run = driven.seen(lambda status: bool(status.events))
    assert run.status is not None and [row[STEP] for row in run.status.rows] == [5, 6] and run.trajectory == "abc"


@pytest.mark.parametrize("num_rows", [0, 500, 501, 5000])
def test_live_rows_are_bounded_and_keep_what_is_rare(num_rows: int) -> None:
    rows: tuple[Any, ...] = ()
    for step in range(num_rows):
        rows = thinned((*rows, {STEP: step, (EVAL_LOSS_EMA if step % 500 == 0 else TRAIN_LOSS): 1.0}))
    assert len(rows) == min(num_rows, len(rows)) <= records.MAX_ROWS
    assert [row[STEP] for row in rows] == sorted(row[STEP] for row in rows)
    assert sum(EVAL_LOSS_EMA in row for row in rows) == -(-num_rows // 500)
    assert [row[STEP] for row in rows][-200:] == list(range(num_rows))[-200:]


def test_a_process_that_is_gone_was_killed_and_one_elsewhere_is_silent(driven: Driven) -> None:
    driven.work()
    run = driven.seen(lambda status: True)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone = replace(run, started=replace(run.started, process=ProcessId(this_host(), int(dead.stdout))))
    away = replace(run, started=replace(run.started, process=ProcessId("elsewhere", 1)))
    assert gone.state(time.time()) == "killed" and away.state(time.time()) == "running"
    assert away.state(time.time() + SILENT_S + 1) == "silent"


class Away(LocalStore):
    """Storage that does not answer for the first five writes."""

    failures = 5

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.failures:
            self.failures -= 1
            raise StoreError(f"{key}: storage is away")
        return super().put_if_absent(key, data)


def test_storage_that_is_away_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driven = Driven(Away(str(tmp_path)))
    driven.work()
    for done in range(50):
        driven.recorder.on_stage_progress("train", Progress(done, 50, "steps"))
    driven.seen(lambda status: status.stages["train"].done == 49)
    driven.recorder.on_run_end(None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [run.state(0.0) for run in runs_of(driven.store)] == ["completed"]


def test_runs_are_listed_newest_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(5):
        run_id = f"20261128-00000{number}-abcdef"
        started = records.RunStarted(run_id, "t", "k", "", "h", ProcessId("elsewhere", 1), float(number), "0")
        store.put_if_absent(records.start_key(run_id), started.to_json())
    store.put_if_absent("runs/20261128-000009-half/status/00000001.json", b"")  # its start is not there
    assert [run.started.started_at for run in runs_of(store, limit=3)] == [4.0, 3.0]
    assert len(runs_of(store, limit=None)) == 5


class Slow(LocalStore):
    """Storage that takes long for each write."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        time.sleep(1.0)
        return super().put_if_absent(key, data)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_run_waits_for_its_record_at_its_end_but_not_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException | None
) -> None:
    monkeypatch.setattr(run_recorder, "END_S", 0.2)
    driven = Driven(Slow(str(tmp_path)))
    driven.work()
    began = time.monotonic()
    driven.recorder.on_run_end(error)
    assert time.monotonic() - began < 0.8
    assert "how this run ended may be missing" in caplog.text
    while not (ended := [run for run in runs_of(driven.store) if run.ended]):  # if the process lives on, it is written
        time.sleep(0.05)
    assert ended[0].state(0.0) == ("completed" if error is None else "stopped")


STARTED = records.RunStarted("a-1", "t", "k", "", "h", ProcessId("elsewhere", 1), 1000.0, "0")
STATUS = records.RunStatus("a-1", 1000.0, {"train": records.StageStatus("running", 1000.0)}, trajectory="abc")
HOSTILE = "<b>\x1b[31m\u202e/../"


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (b"", None),  # the machine lost its power
        (b'{"format": 1, "run_id"', None),
        (b"[" * 100_000, None),
        (STATUS, b""),
        (STATUS, records.RunEnded("a-1", "failed", 1e300)),  # a date that no calendar has
        (replace(STATUS, updated_at=-1.0), None),
        (replace(STATUS, trajectory="../../etc"), None),
        (replace(STATUS, rows=({TRAIN_LOSS: 0.5},)), None),  # of which step?
        (replace(STATUS, rows=({STEP: 1e300},)), None),
        (replace(STATUS, rows=({STEP: 0.5},)), None),
        (replace(STATUS, stages={HOSTILE: STATUS.stages["train"]}), None),
        (replace(STATUS, stages={"train": replace(STATUS.stages["train"], fingerprint=HOSTILE)}), None),
        (replace(STATUS, events=(records.EventNote(1.0, HOSTILE, "stage", ""),)), None),
    ],
)
def test_a_record_that_nobody_can_use_is_as_one_that_was_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: Any, end: Any
) -> None:
    store = open_store(str(tmp_path))
    store.put_if_absent(records.start_key("a-1"), STARTED.to_json())
    store.put_if_absent(records.status_key("a-1", 1), status if isinstance(status, bytes) else status.to_json())
    if end is not None:
        store.put_if_absent(records.end_key("a-1"), end if isinstance(end, bytes) else end.to_json())
    [run] = runs_of(store)
    assert (run.status is None) == (end is None) and run.ended is None and run.state(2000.0) == "silent"
    assert len(caplog.records) == 1 and "is damaged" in caplog.text
    assert not {"\x1b", "\u202e"} & set(caplog.text)
    index = RunIndex(store)
    index.refresh(2000.0)
    assert [row.run_id for row in index.rows] == ["a-1"] and trainings_of(store, now=2000.0).total == (end is not None)


@pytest.mark.parametrize("start", [b"", b"{", replace(STARTED, run_id="other"), replace(STARTED, started_at=1e300)])
def test_a_run_without_a_readable_start_hides_no_other(tmp_path: Path, start: Any) -> None:
    store = open_store(str(tmp_path))
    store.put_if_absent(records.start_key("a-1"), STARTED.to_json())
    store.put_if_absent(records.start_key("b-2"), start if isinstance(start, bytes) else start.to_json())
    assert [run.run_id for run in runs_of(store)] == ["a-1"]
    with pytest.raises(SanaError, match=r"b-2/start\.json is "):
        read_run(store, "b-2")


@pytest.mark.parametrize(("ahead_s", "state"), [(0.0, "running"), (SILENT_S - 1, "running"), (1e6, "silent")])
def test_a_clock_that_is_ahead_makes_no_run_immortal(ahead_s: float, state: str) -> None:
    assert Run(STARTED, replace(STATUS, updated_at=5000.0 + ahead_s), None).state(5000.0) == state


def test_maintenance_knows_the_records() -> None:
    assert kind_of(records.start_key("a")) == kind_of(records.end_key("a")) == "run"
    assert kind_of(records.status_key("a", 3)) == "run status"


def artifact(stage: str) -> Artifact:
    return Artifact(stage, "0123456789abcdef", 1, {}, {}, {}, COUNTS, {})
