"""What the terminal says of a run is true: counts, states, one rate; at any width, in a pipe, without colours."""

import threading

import pytest

from sana.errors import SanaError
from sana.pipeline.observers import CACHED, COMPLETED, FAILED, STOPPED, StageStart
from sana.progress import Progress
from tests.shown_runs import ShownRun, counts_of

NO_COLOR = {"color_system": None}
BAR = 16 * "\u2501"
# each stage with what it counts, and a number of it as large as anybody has
UNITS = {
    "download": ("videos", 10_000_000),
    "probe": ("videos", 10_000_000),
    "encode_captions": ("texts", 50_000_000),
    "encode_latents": ("samples", 12_345_678),
    "train": ("steps", 1_000_000),
    "evaluate": ("evaluations", 6144),
    "sample": ("sampler steps", 2000),
}
each_stage = pytest.mark.parametrize("stage", UNITS)


def at_work(stage: str, width: int | None, *, part: float = 0.9, **options: object) -> tuple[ShownRun, str]:
    """A stage that has done a part of its work in 31 s; returns the counts as they must be shown."""
    shown, (unit, total) = ShownRun(width, options=options), UNITS[stage]
    shown.start(stage)
    shown.say(stage, Progress(0, total, unit))
    done = int(part * total)
    shown.say(stage, Progress(done, total, unit, "a detail that is long enough to be cut " * 3), after_s=31)
    return shown, f"{done}/{total} {unit}"


@each_stage
@pytest.mark.parametrize("state", [FAILED, STOPPED])
@pytest.mark.parametrize("width", [80, 120])
def test_what_failed_or_stopped_has_its_true_count_and_no_green(stage: str, state: str, width: int) -> None:
    shown, counts = at_work(stage, width)
    shown.end(stage, state)
    row = shown.row(stage)
    assert counts in row and f"{state} after 0:31" in row and len(row) <= width
    assert not row.startswith("ok") and "ETA" not in row and "/s" not in row
    assert "green" not in shown.colors() and {FAILED: "red", STOPPED: "yellow"}[state] in shown.colors()
    assert "\u2501" * 8 not in row or "\u2500" in row, "the bar is not full"


@each_stage
@pytest.mark.parametrize("state", [FAILED, STOPPED])
def test_in_a_log_it_is_one_line(stage: str, state: str) -> None:
    shown, counts = at_work(stage, None)
    shown.end(stage, state)
    assert shown.lines() == [f"{stage}: started"], "it may be tried again"
    shown.display.on_run_end(SanaError("no"))
    shown.display.__exit__(SanaError, SanaError("no"), None)
    assert shown.lines()[1:] == [f"{stage}: {state} after 0:31 at {counts}"]


@each_stage
@pytest.mark.parametrize("width", [80, 120])
def test_at_work_there_is_one_rate_with_an_eta(stage: str, width: int) -> None:
    shown, counts = at_work(stage, width)
    row = shown.row(stage)
    assert counts in row and row.count("/s, ETA 0:03") == 1 and "elapsed" not in row
    assert len(row) <= width - len("^C"), "a terminal echoes that, and must not break the row for it"


def test_what_is_done_in_a_burst_has_no_rate_of_a_burst() -> None:
    shown = ShownRun(80)
    shown.start("download")
    for done in range(1, 15):
        shown.say("download", Progress(done, 15, "videos"), after_s=1.9 if done == 1 else 0.005)
    assert "14/15 videos 7.1" in shown.row("download") or "14/15 videos 7.2" in shown.row("download")
    shown.say("download", Progress(15, 15, "videos"))
    shown.commit("download", counts_of(16, 1), seconds=1.97)
    shown.end("download", COMPLETED)
    assert shown.row("download") == f"ok download {BAR} 15/15 videos completed took 0:02  1 rejected"


def test_training_is_followed_from_its_start() -> None:
    """Each thing that it is busy with is named, with how long for; then a step is shown when it is done."""
    shown = ShownRun(100)
    shown.start("train")
    shown.say("train", Progress(0, 0, "", phase="starting a process"), after_s=1)
    assert shown.row("train").split("  ")[-1] == "starting a process" and "for 0:01" in shown.row("train")
    shown.say("train", Progress(0, 60, "steps", phase="loading the model"), after_s=7)
    assert "0/60 steps for 0:08  loading the model" in shown.row("train")
    shown.now += 20
    assert "0/60 steps for 0:28  loading the model" in shown.row("train")
    shown.say("train", Progress(0, 60, "steps"), after_s=2)
    shown.say("train", Progress(2, 60, "steps"), after_s=2)
    assert "2/60 steps 1/s, ETA 0:58" in shown.row("train"), "loading does not slow the rate"
    shown.say("train", Progress(2, 60, "steps", "loss 1.2", phase="evaluating"), after_s=0.5)
    assert shown.row("train").endswith("evaluating")
    shown.say("train", Progress(3, 60, "steps", "loss 1.2"), after_s=0.5)
    assert shown.row("train").endswith("loss 1.2")


def test_a_rate_falls_when_nothing_comes() -> None:
    shown = ShownRun(100)
    shown.start("train")
    for step in range(11):
        shown.say("train", Progress(step, 60, "steps"), after_s=1)
    assert "10/60 steps 1/s, ETA 0:50" in shown.row("train")
    shown.now += 31
    assert "10/60 steps 15/min, ETA 2:4" in shown.row("train")


def test_an_attempt_that_is_tried_again_is_not_told_as_failed() -> None:
    for width in (None, 120):
        shown, counts = at_work("train", width)
        shown.end("train", FAILED)
        shown.now += 10
        shown.start("train")
        if width is None:
            first = f"train: attempt 1 failed after 0:31 at {counts}; it is tried again"
            assert shown.lines()[1:] == [first, "train: started, attempt 2"]
            shown.say("train", Progress(5, 10, "steps"), after_s=3)
            shown.end("train", FAILED)
            shown.display.on_run_end(SanaError("no"))
            assert shown.lines()[3:] == ["train: attempt 2 failed after 0:03 at 5/10 steps"]
        else:
            assert "failed" not in shown.row("train") and "attempt 2 for 0:00" in shown.row("train")
            assert counts not in shown.row("train"), "it is counted again"


def test_a_log_gets_a_line_every_30_s_and_one_at_each_end() -> None:
    shown = ShownRun(None)
    shown.start("probe")
    for _ in range(95):
        shown.now += 1
        shown.display.tick()
    shown.say("probe", Progress(0, 400, "videos"))
    for done in range(1, 62):
        shown.say("probe", Progress(done * 4, 400, "videos", "2 rejected"), after_s=1)
        shown.display.tick()
    shown.commit("probe", counts_of(400, 3), seconds=156.2)
    shown.end("probe", COMPLETED)
    shown.commit("bucket", counts_of(397), state=CACHED)
    shown.end("bucket", CACHED)
    assert shown.lines() == [
        "probe: started",
        "probe: running for 0:30",
        "probe: running for 1:00",
        "probe: running for 1:30",
        "probe: 100/400 videos, 4 videos/s, ETA 1:15, 2 rejected",
        "probe: 220/400 videos, 4 videos/s, ETA 0:45, 2 rejected",
        "probe: completed, took 2:36; 400 in, 397 out, 3 rejected (3 too_short)",
        "bucket: cached; 397 in, 397 out, 0 rejected",
    ]


@pytest.mark.parametrize(
    ("stage", "progress", "said"),
    [
        ("train", Progress(120, 240, "steps", before=120), "resumed from step 120"),
        ("encode_latents", Progress(12, 40, "samples", before=12), "resumed: 12 of 40 samples were encoded before"),
        ("probe", Progress(3, 9, "videos", before=3), "resumed: 3 of 9 videos were probed before"),
    ],
)
def test_resuming_is_said_once_and_is_not_counted_as_speed(stage: str, progress: Progress, said: str) -> None:
    shown = ShownRun(None)
    shown.start(stage)
    shown.say(stage, progress, after_s=2)
    shown.say(stage, Progress(progress.done + 10, 1000, progress.unit, before=progress.before), after_s=10)
    assert shown.lines() == [f"{stage}: started", f"{stage}: {said}"]
    assert shown.display.views[stage].pace.per_s(shown.now) == 1.0


def test_what_other_machines_did_in_this_run_is_not_called_done_before() -> None:
    shown = ShownRun(None)
    shown.start("encode_latents")
    shown.say("encode_latents", Progress(0, 40, "samples", "2 of 2 worker runs at work"))
    shown.say("encode_latents", Progress(30, 40, "samples", "2 of 2 worker runs at work"), after_s=10)
    shown.say("encode_latents", Progress(0, 0, "", phase="starting a process"), after_s=1)
    shown.say("encode_latents", Progress(30, 40, "samples", before=30), after_s=8)
    shown.say("encode_latents", Progress(35, 40, "samples", before=30), after_s=5)
    assert shown.lines() == ["encode_latents: started"]
    assert shown.display.views["encode_latents"].running_line(shown.now) == (
        "encode_latents: 35/40 samples, 1 samples/s, ETA 0:05"
    )


@pytest.mark.parametrize("options", [{"no_color": True}, NO_COLOR])
def test_states_are_words_without_colours(options: dict[str, object]) -> None:
    shown, _ = at_work("train", 100, **options)
    shown.end("train", FAILED)
    assert shown.row("train").startswith("x  train") and "failed after" in shown.row("train")


def test_a_dumb_terminal_gets_lines() -> None:
    shown = ShownRun(80, options={"_environ": {"TERM": "dumb"}})
    shown.start("train")
    assert shown.file.getvalue() == "train: started\n"


def test_a_stage_that_fails_before_its_work_is_shown_as_failed() -> None:
    shown = ShownRun(80)
    shown.display.on_event(StageStart("download"))
    shown.end("download", FAILED, after_s=2)
    assert "failed after 0:02" in shown.row("download") and "green" not in shown.colors()


@pytest.mark.parametrize(("state", "said"), [(COMPLETED, 1), (CACHED, 0)])
def test_the_eval_loss_is_told_when_evaluate_ends(state: str, said: int) -> None:
    shown = ShownRun(None)
    shown.start("evaluate")
    shown.commit("evaluate", counts_of(5), state=state)
    shown.end("evaluate", state)
    assert shown.file.getvalue().count("eval loss on 5 held-out clips, before training: 1.5000 +- 0.0100") == said
    assert shown.file.getvalue().count("after 60 steps, ema  weights: 0.6000 +- 0.0100") == said


def test_what_is_said_does_not_wait_for_what_is_drawn() -> None:
    """The display is drawn in a thread of its own, which waits for views that change; printing waits for drawing."""
    shown, over = ShownRun(80), threading.Event()

    def draw() -> None:
        while not over.is_set():
            shown.display._live.refresh()  # type: ignore[union-attr]

    with shown.display:
        drawing = threading.Thread(target=draw, daemon=True)
        drawing.start()
        for number in range(200):
            shown.start(f"s{number % 3}")
            shown.say(f"s{number % 3}", Progress(number + 1, 500, "steps", before=number))
        over.set()
        drawing.join(10)
    assert not drawing.is_alive() and shown.file.getvalue().count("resumed from step") == 199


def test_work_that_is_no_stage_ends_with_what_ends_it() -> None:
    shown = ShownRun(None)
    report = shown.display.reporter("verify", with_unit=True)
    report(Progress(3, 3, "objects"))
    report(Progress(1, 2, "tables"))
    shown.display.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert shown.lines() == [
        "verify objects: started",
        "verify objects: completed, took 0:00",
        "verify tables: started",
        "verify tables: stopped after 0:00 at 1/2 tables",
    ]
