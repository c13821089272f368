"""`sana watch`: what is read of a root, in how many requests, and how it is told on a screen, in lines and as JSON."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from rich.console import Console

from flows.cli.main import main
from flows.watch.frame import MAX_POINTS, WatchDocument
from flows.watch.loop import Feed, line_of, watch_frames, watch_lines
from flows.watch.plot import Line, plot
from flows.watch.reader import RunReader, Wanted
from flows.watch.screen import draw
from sana import metrics
from sana.artifact import FileInfo
from sana.runs.records import EventNote
from sana.runtime.process_id import ProcessId, this_host
from sana.store import LocalStore, Store, open_store
from sana.store_errors import StoreAwayError
from sana.training.validation import record as validations
from sana.training.validation.record import ValidationRecord
from sana.wording import without_controls
from tests.watched_runs import ELSEWHERE, TRAJECTORY, put_checkpoint, put_run, rows_of, training

RUN = "20261128-154012-3fa9c1"
BEFORE = "20261128-150000-aaaaaa"
NASTY = "my [red]run[/red]\x1b[31m <script>\u202e"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


class CountedStore:
    """A store that counts its requests by method."""

    def __init__(self, store: Store) -> None:
        self._store, self.calls = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if callable(found) and name != "uri":
            self.calls[name] += 1
        return found


def read(store: Any, title: str = "", name: str = "") -> WatchDocument:
    return RunReader(store, Wanted(title, name)).read()


def gone() -> ProcessId:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return ProcessId(this_host(), process.pid)


def test_a_run_that_is_not_there_yet_is_waited_for(store: LocalStore) -> None:
    put_run(store, RUN, title="other")
    frame = read(store, "demo")
    assert (frame.state, frame.run_id) == ("waiting", "") and "for a run of demo under" in frame.said
    reader = RunReader(store, Wanted("demo"))
    reader.read()
    put_run(store, BEFORE, stages=training(3))
    assert reader.read().run_id == BEFORE


@pytest.mark.parametrize(
    ("how", "state", "said"),
    [
        ({}, "running", "train 30/120 steps, 4 steps/s, ETA 0:22"),
        ({"process": ELSEWHERE, "age_s": 125.0}, "silent", "no sign for 2 min, killed? Look at host"),
        ({"process": ELSEWHERE, "age_s": -7200.0}, "silent", "last sign is of 2.0 h from now: the clock of host or"),
        ({"ended": "completed"}, "completed", "in 10 min"),
        ({"ended": "stopped"}, "stopped", "the same command resumes it"),
        (
            {"ended": "stopped", "error": "stopped by SIGTERM at stage train, step 30; run the same command again"},
            "stopped",
            "by SIGTERM at stage train, step 30, after 10 min, 0 s ago; the same command resumes it",
        ),
        ({"ended": "failed", "error": "the disk is full"}, "failed", "the same command resumes it"),
    ],
)
def test_the_state_is_told_in_words(store: LocalStore, how: dict[str, Any], state: str, said: str) -> None:
    put_run(store, RUN, stages=training(30), **how)
    frame = read(store, "demo")
    assert frame.state == state and said in frame.said
    assert frame.error == (how["error"] if state == "failed" else "") and frame.is_over == ("ended" in how)
    top = draw(frame, 120, 30, time.time())[0].plain
    assert state in top and said in top


def test_what_a_killed_run_was_at_goes_on_no_more(store: LocalStore) -> None:
    """Its last status is older than its last checkpoint: the numbers are of the checkpoint, and no rate is told."""
    put_run(store, RUN, stages=training(5), rows=rows_of([4, 5]), trajectory=TRAJECTORY, process=gone(), age_s=30.0)
    put_checkpoint(store, 20)
    frame = read(store, "demo")
    stage = frame.stages[1]
    assert frame.state == "killed" and len(frame.curves[metrics.TRAIN_LOSS].steps) == 20
    assert (stage.state, stage.per_s, stage.left_s) == ("stopped", None, None)
    assert stage.elapsed_s == pytest.approx(30, abs=2) and frame.latest[metrics.TRAIN_LOSS] == 2 / 20
    screen = "\n".join(line.plain for line in draw(frame, 80, 24, time.time()))
    assert "ETA" not in screen and "!  train    stopped  5/120 steps, after 0:30" in screen
    put_run(store, "20261128-160000-bbbbbb", stages=training(21), trajectory=TRAJECTORY)
    screen = "\n".join(line.plain for line in draw(read(store, "demo"), 80, 24, time.time()))
    assert "attempt 2, the one before killed, last heard of at step 5" in screen


def test_the_last_sample_is_a_picture_of_the_last_validation_that_has_one(store: LocalStore) -> None:
    def put_validation(step: int, **said: Any) -> EventNote:
        made = ValidationRecord(TRAJECTORY, step, "0123456789ab", 1.0, **said)
        store.put_if_absent(made.key, made.to_json())
        return EventNote(time.time(), "train", "validation", f"validation of step {step}", made.key)

    sheet = FileInfo(f"{validations.folder_of(TRAJECTORY, 20, '0123456789ab')}/a/sheet.png", 1, "x")
    events = [
        put_validation(10, failed="out of memory"),
        put_validation(20, sheets={"1x48x80-ema": "sheet.png"}, files={"sheet.png": sheet}),
        put_validation(30, failed="out of memory"),
    ]
    put_run(store, RUN, stages=training(33), events=events[:1])
    assert read(store, "demo").sample == ""
    put_run(store, RUN, stages=training(33), events=events)
    counted = CountedStore(store)
    reader = RunReader(counted, Wanted("demo"))  # type: ignore[arg-type]
    assert reader.read().sample == store.uri(sheet.key)
    before = counted.calls["read"]
    assert reader.read().sample == store.uri(sheet.key) and counted.calls["read"] - before <= 3, "it is read once"
    store.local_path(events[1].key).write_text("{")
    assert read(store, "demo").sample == store.uri(events[1].key), "its record, where that cannot be read"
    store.delete(events[1].key)
    assert read(store, "demo").sample == ""


def test_a_run_whose_process_is_gone_was_killed(store: LocalStore) -> None:
    put_run(store, RUN, stages=training(30), process=gone())
    frame = read(store, "demo")
    assert frame.state == "killed" and "is gone without a word; the same command resumes it" in frame.said


def test_a_killed_run_and_the_one_that_resumed_it_are_one_curve(store: LocalStore) -> None:
    put_run(store, BEFORE, stages=training(38), process=gone(), rows=rows_of(range(31, 39)), trajectory=TRAJECTORY)
    put_checkpoint(store, 30)
    put_run(store, RUN, stages=training(33), rows=rows_of(range(31, 34)), trajectory=TRAJECTORY)
    frame = read(store, "demo")
    assert frame.run_id == RUN and [(one.state, one.step) for one in frame.attempts] == [
        ("running", 33),
        ("killed", 38),
    ]
    loss = frame.curves[metrics.TRAIN_LOSS]
    assert loss.steps == tuple(range(1, 34)) and loss.values[-1] == pytest.approx(2 / 33)
    assert frame.curves[metrics.EVAL_LOSS_EMA].steps == (30.0,)
    assert (frame.latest[metrics.TRAIN_LOSS], frame.latest[metrics.EVAL_LOSS_EMA]) == (pytest.approx(2 / 33), 0.7)
    text = "\n".join(line.plain for line in draw(frame, 120, 30, time.time()))
    assert "\nattempt 2, the one before killed, last heard of at step 38" in text and "eval 0.7000 +- 0.0100" in text
    put_run(store, "20261128-160000-bbbbbb")
    newest = read(store, "demo")
    assert newest.curves.keys() == frame.curves.keys(), "before it trains it shows what there is of the training"


@pytest.mark.parametrize("name", [RUN, RUN[:15], TRAJECTORY, TRAJECTORY[:6], "f1f1f1f1f1f1f1f1", "d0d0"])
def test_a_run_is_found_by_its_own_name_or_its_trainings(store: LocalStore, name: str) -> None:
    put_run(store, RUN, stages=training(3), trajectory=TRAJECTORY)
    put_run(store, "20261128-170000-cccccc", title="other")
    assert read(store, name=name).run_id == RUN


def test_a_training_that_no_run_tells_of_is_shown_by_its_name(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(store, RUN, title="other")
    put_checkpoint(store, 30)
    reader = RunReader(store, Wanted(name=TRAJECTORY[:6]))
    frame = reader.read()
    assert (frame.state, frame.run_id, frame.trajectory) == ("unrecorded", "", TRAJECTORY)
    assert frame.said.startswith("its newest checkpoint is of step 30, ") and not frame.is_over
    assert frame.curves[metrics.TRAIN_LOSS].steps == tuple(range(1, 31))
    put_checkpoint(store, 60)
    assert "step 60" in reader.read().said
    main(["watch", TRAJECTORY, "--root", store.root, "--once"])
    assert f"training {TRAJECTORY}  unrecorded" in capsys.readouterr().out


def test_a_refresh_is_a_few_small_requests_however_many_runs_there_are(store: LocalStore) -> None:
    put_run(store, BEFORE, title="other", ended="completed")
    for number in range(300):  # as files: each commit waits for the disk
        copytree(Path(store.root, "runs", BEFORE), Path(store.root, "runs", f"20260101-{number:06}-aaaaaa"))
    put_checkpoint(store, 30)
    put_run(store, RUN, stages=training(33), rows=rows_of(range(31, 34)), trajectory=TRAJECTORY)
    counted = CountedStore(store)
    reader = RunReader(counted, Wanted("demo"))  # type: ignore[arg-type]
    assert reader.read().run_id == RUN
    assert counted.calls["list_dirs"] <= 2 and counted.calls["read"] <= 200 + 20, "the newest runs alone"
    counted.calls.clear()
    for _ in range(5):
        reader.read()
    assert sum(counted.calls.values()) <= 5 * 4 and not counted.calls["list_dirs"], counted.calls


def test_a_million_steps_are_a_curve_of_a_few_points(store: LocalStore) -> None:
    put_run(store, RUN, stages=training(33), rows=rows_of(range(1, 100_000, 7)), trajectory=TRAJECTORY)
    curve = read(store, "demo").curves[metrics.TRAIN_LOSS]
    assert 50 < len(curve.steps) == len(curve.values) <= MAX_POINTS
    assert curve.steps[0] < 1000 and curve.steps[-1] > 99_000 and list(curve.steps) == sorted(curve.steps)


@pytest.mark.parametrize(("width", "height"), [(160, 50), (120, 24), (100, 24), (99, 24), (80, 24), (60, 18), (40, 10)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_frame_fits_its_terminal(store: LocalStore, width: int, height: int, ascii_only: bool) -> None:
    put_checkpoint(store, 30)
    events = [EventNote(time.time(), "train", "checkpoint", f"step {n} \U0001f3ac", "k") for n in range(9)]
    stages = training(33, error="e" * 300)
    put_run(store, RUN, title=NASTY, stages=stages, rows=rows_of([31]), trajectory=TRAJECTORY, events=events)
    lines = draw(read(store), width, height, time.time(), ascii_only=ascii_only)
    assert len(lines) <= height and all(line.cell_len <= width for line in lines)
    text = "\n".join(line.plain for line in lines)
    assert "train" in text and "33/120 steps" in text and ("train/loss" in text) == (height >= 18)
    assert not ascii_only or all(ord(char) < 128 or char in NASTY or char == "\U0001f3ac" for char in text)


@pytest.mark.parametrize("width", [20, 47, 80])
def test_what_is_told_breaks_between_words(store: LocalStore, width: int) -> None:
    put_run(store, RUN, stages=training(3))
    said = "alpha beta gamma delta " * 8
    frame = replace(read(store), said=said, error=said, trouble="")
    lines = [line.plain for line in draw(frame, width, 40, time.time())]
    told = [line for line in lines if "alpha" in line or "gamma" in line]
    assert told and all(word in {*said.split(), "error:"} for line in told for word in line.split())
    wide = replace(frame, said="\u732b" * 200, error="x" * 200)
    assert all(line.cell_len <= width for line in draw(wide, width, 40, time.time()))


def test_what_others_wrote_is_no_markup_and_no_control(store: LocalStore) -> None:
    put_run(store, RUN, title=NASTY, stages=training(3, error=NASTY), ended="failed", error=NASTY)
    frame = read(store)
    text = "\n".join(line.plain for line in draw(frame, 120, 30, time.time()))
    assert "my [red]run[/red]?[31m <script>?" in text
    assert "\x1b" not in text + line_of(frame) and "\u202e" not in text + line_of(frame)
    assert without_controls("a\x9bb\nc\td\u202e\u2067\u200b\ud800") == "a?b c d????"
    family = "\U0001f469\u200d\U0001f467"
    assert without_controls(family) == family


def test_one_record_that_cannot_be_read_hides_no_other(store: LocalStore) -> None:
    put_run(store, RUN, stages=training(3))
    store.put_if_absent("runs/20261128-170000-dddddd/start.json", b"{")
    store.put_if_absent("runs/20261128-180000-eeeeee/start.json", b'{"format": 99}')
    store.put_if_absent("runs/20261128-190000-ffffff/status/00000001.json", b"{}")
    assert read(store).run_id == RUN == read(store, "demo").run_id


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 3), (20, 5), (30, 8)])
def test_no_terminal_is_too_small(store: LocalStore, width: int, height: int) -> None:
    put_checkpoint(store, 3)
    put_run(store, RUN, title=NASTY, stages=training(3), trajectory=TRAJECTORY, ended="failed", error="e" * 500)
    lines = draw(read(store), width, height, time.time())
    assert len(lines) <= height and all(line.cell_len <= width for line in lines)


def test_lines_for_a_log_tell_each_thing_once_and_end_with_the_run(store: LocalStore) -> None:
    event = EventNote(time.time(), "train", "checkpoint", "checkpoint of step 30", "train/x/index.json")
    put_run(store, RUN, stages=training(33), events=[event], trajectory=TRAJECTORY)
    feed = Feed(RunReader(store, Wanted("demo")), store.root, 0.01)
    said: list[str] = []

    def end_it() -> None:
        while len(said) < 2:
            time.sleep(0.01)
        put_run(store, RUN, stages=training(120, state="completed"), events=[event], ended="completed")

    ending = threading.Thread(target=end_it)
    ending.start()
    watch_lines(feed, said.append)
    ending.join()
    assert 3 <= len(said) <= 4, said  # the end is written after the last status
    assert "train: checkpoint of step 30 (" in said[0]
    assert f"demo {RUN}: running: train 33/120 steps, 4/s, ETA 0:2" in said[1]
    assert f"demo {RUN}: completed" in said[-1] and "\x1b" not in "".join(said)


def test_storage_that_is_away_is_told_and_comes_back() -> None:
    class Away:
        def __init__(self) -> None:
            self.times = 0

        def read(self) -> WatchDocument:
            self.times += 1
            if self.times in (2, 3):
                raise StoreAwayError("s3://b: no connection")
            state = "running" if self.times < 4 else "completed"
            frame = WatchDocument("s3://b", time.time(), state, "", title="demo", run_id=RUN)
            return replace(frame, ended_at=time.time()) if self.times == 4 else frame

    frames = list(watch_frames(Feed(Away(), "s3://b", 0.2)))
    assert [bool(frame.trouble) for frame in frames] == [False, True, True, False]
    assert frames[1].run_id == RUN and "does not answer since" in frames[1].trouble
    assert frames[1].trouble == frames[2].trouble, "since when, not until when"


def test_a_reading_that_hangs_is_told(store: LocalStore) -> None:
    release = threading.Event()

    class Hanging:
        def read(self) -> WatchDocument:
            release.wait(10)
            return WatchDocument("x", 0.0, "waiting", "")

    with Feed(Hanging(), "s3://b", 1.0) as feed:
        assert feed.frame(time.time()) is None
        late = feed.frame(time.time() + 60)
        assert late is not None and "storage has not answered for 5" in late.trouble
        release.set()


def test_json_is_one_document_or_one_a_line(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    put_run(store, RUN, stages=training(33), rows=rows_of([1]), ended="stopped")
    main(["watch", "--root", store.root, "--json"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["state"], document["run_id"], err) == ("stopped", RUN, "") and document["stages"][1]["done"] == 33
    main(["watch", RUN[:8], "--root", store.root, "--json", "--follow", "--interval", "0.2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["state"] == "stopped"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nosuch"], 1, f"has no training or run nosuch; it has {RUN}"),
        (["--follow"], 2, "--follow is for --json"),
        ([RUN, "-s", "a=b"], 1, "-s changes a config"),
        (["no.yaml"], 1, "there is no config no.yaml"),
    ],
)
def test_what_cannot_be_watched_is_said(
    store: LocalStore, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(store, RUN)
    with pytest.raises(SystemExit) as ended:
        main(["watch", "--root", store.root, *words])
    assert ended.value.code == code and said in capsys.readouterr().err


def test_without_a_terminal_nothing_moves_the_cursor(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    put_run(store, RUN, stages=training(33), ended="completed")
    for words in (["--once"], []):
        main(["watch", "--root", store.root, *words])
        out, err = capsys.readouterr()
        assert "completed" in out and "\x1b" not in out + err and "\r" not in out


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_takes_the_colours_away(
    store: LocalStore, environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    put_run(store, RUN, stages=training(33), ended="failed", error="x")
    console = Console(force_terminal=True, file=StringIO(), width=120, color_system="standard")
    for line in draw(read(store), 120, 24, time.time()):
        console.print(line)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert bool(re.search("\x1b\\[[0-9;]*3[0-7]", out)) == coloured


def test_a_bucket_is_watched_in_a_few_requests(s3_root: str) -> None:
    store: Any = CountedStore(open_store(s3_root))
    put_checkpoint(store, 3)
    put_run(store, RUN, stages=training(5), rows=rows_of([4, 5]), trajectory=TRAJECTORY)
    reader = RunReader(store, Wanted("demo"))
    frame = reader.read()
    assert frame.curves[metrics.TRAIN_LOSS].steps == (1, 2, 3, 4, 5) and frame.root == s3_root
    store.calls.clear()
    put_run(store, RUN, stages=training(50), trajectory=TRAJECTORY)
    store.calls.clear()
    assert reader.read().stages[1].done == 50
    assert sum(store.calls.values()) <= 4, store.calls


def test_a_name_that_the_terminal_has_no_letters_for_is_no_traceback(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_checkpoint(store, 3)
    put_run(store, RUN, title="\u96ea", stages=training(3), trajectory=TRAJECTORY, ended="completed")
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    main(["watch", "--root", store.root, "--once"])
    out.flush()
    shown = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "\\u96ea" in shown and "train/loss" in shown and "|*" in shown


def test_watching_imports_no_heavy_library() -> None:
    script = "import sys, flows.watch.reader, flows.watch.loop; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "mlflow", "prefect", "s3fs", "diffusers"} & set(loaded)


def test_a_curve_goes_from_its_first_to_its_last_point() -> None:
    rows = [row.plain for row in plot([Line([1, 2, 3, 4], [4, 3, 2, float("nan")])], 30, 5, ascii_only=True)]
    assert rows[0].startswith("4 |*") and rows[3].rstrip().endswith("*") and rows[3].startswith("2 |")
    assert rows[4].split() == ["1", "3"] and all(len(row) <= 30 for row in rows)
    assert plot([Line([1], [float("inf")])], 30, 5) == [] and plot([Line([1, 2], [1, 2])], 5, 5) == []
    [top, *_] = plot([Line([1, 2], [5, 5])], 30, 5, ascii_only=True)
    assert top.plain.startswith("5 |*")
