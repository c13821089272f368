"""Progress of several workers, and of runs that continue, as one; and the rate of it."""

from hypothesis import given
from hypothesis import strategies as st

from sana.pipeline.observers import Event, Observer, Observers, WorkEvent
from sana.progress import (
    REJECTED,
    CheckpointSaved,
    Continued,
    Happening,
    Pace,
    PreviewReady,
    Progress,
    Summed,
    ValidationDone,
)


def test_workers_add_up_to_one_bar_with_rejections() -> None:
    heard: list[Progress] = []
    summed = Summed(heard.append, {"81x480x832": 7, "17x96x160": 4})
    before = {"17x96x160": 2}  # done by a worker before these
    summed(Progress(2, 11, "samples", worker=0, counts=before))
    summed(Progress(0, 11, "samples", worker=1))
    summed(Progress(3, 11, "samples", "81x480x832", worker=0, counts={**before, "81x480x832": 1, REJECTED: 1}))
    summed(Progress(2, 11, "samples", "81x480x832", worker=1, counts={"81x480x832": 2, REJECTED: 1}))
    assert [(one.done, one.total, one.unit) for one in heard] == [(n, 11, "samples") for n in (2, 2, 3, 5)]
    assert heard[-1].detail == "81x480x832 3/7, 2 rejected", "the rate is told once, by who shows it"
    summed(Progress(9, 11, "samples", "81x480x832", worker=1, counts={"81x480x832": 9}))  # some did the same part
    assert heard[-1].done == 11 and heard[-1].detail == "", "no bucket is at work any more"
    assert heard[0].detail == heard[1].detail == ""


def test_workers_are_in_a_phase_while_all_of_them_are() -> None:
    heard: list[Progress] = []
    summed = Summed(heard.append, {"81x480x832": 7})
    for progress in (
        Progress(0, 0, "", phase="starting a process"),
        Progress(0, 7, "samples", worker=0, phase="loading the model"),
        Progress(0, 7, "samples", worker=1, phase="loading the model"),
        Progress(1, 7, "samples", "81x480x832", worker=1, counts={"81x480x832": 1}),
    ):
        summed(progress)
    assert [one.phase for one in heard] == ["starting a process", "loading the model", "loading the model", ""]


def test_what_is_there_counts_as_done_whoever_did_it() -> None:
    """40 in all, of which earlier runs did 12; a worker does 9 and crashes, and another one is given the 19 left."""
    heard: list[Progress] = []
    report = Continued(heard.append, 40)
    for progress in (
        Progress(0, 0, "", phase="starting a process"),
        Progress(0, 28, "videos"),
        Progress(9, 28, "videos"),
        Progress(0, 0, "", phase="starting a process"),
        Progress(0, 19, "videos"),
        Progress(19, 19, "videos"),
    ):
        report(progress)
    assert [(one.done, one.total) for one in heard] == [(0, 0), (12, 40), (21, 40), (0, 0), (21, 40), (40, 40)]
    assert {one.before for one in heard if one.total} == {12}


@given(st.lists(st.tuples(st.floats(0.01, 20), st.integers(1, 5)), min_size=1, max_size=60), st.integers(0, 100))
def test_a_rate_is_what_was_done_over_the_time_it_took(steps: list[tuple[float, int]], before: int) -> None:
    """Of the last minute, in which it may be measured to the beginning of a step that began before it."""
    now, done = 5.0, before
    pace, points = Pace(now, before), [(now, before)]
    for seconds, num in steps:
        now, done = now + seconds, done + num
        pace.add(done, now)
        points.append((now, done))
    rate = pace.per_s(now)
    allowed = {(done - then) / (now - at) for at, then in points if now - at >= Pace.MIN_S}
    assert (rate is None) == (now - 5.0 < Pace.MIN_S) if now - 5.0 < Pace.WINDOW_S else True
    assert rate is None or any(abs(rate - one) < 1e-9 for one in allowed)
    left = pace.left_s(done + 10, now)
    assert (rate is None) == (left is None) and (rate is None or abs((left or 0) - 10 / rate) < 1e-6)


def test_no_rate_of_nothing_and_none_after_work_was_lost() -> None:
    pace = Pace(0.0)
    assert pace.per_s(100.0) is None and pace.left_s(10, 100.0) is None
    pace.add(0, 50.0)
    pace.add(4, 52.0)
    assert pace.per_s(52.0) == 2.0
    pace.add(1, 53.0)  # a crash
    assert pace.per_s(53.0) is None


def test_what_happened_is_read_back_and_reaches_observers_as_events() -> None:
    happened: tuple[Happening, ...] = (
        CheckpointSaved(30, "train/t/checkpoints/step_00000030/index.json"),
        ValidationDone(30, "ema", {"bunny": "train/t/videos/bunny.mp4"}, 1.5),
        ValidationDone(60, "live", {}, 0.1, error="out of memory"),
        PreviewReady(30, "bunny", 10, 50, "preview.png"),
    )
    heard: list[Event] = []

    class Listener(Observer):
        def on_event(self, event: Event) -> None:
            heard.append(event)

    line = Progress(30, 60, "steps", happened=happened).to_line()
    assert line.count(b"\n") == 1
    Observers([Listener()]).on_stage_progress("train", Progress.from_line(line.decode(), where="here"))
    assert heard == [WorkEvent("train", what) for what in happened]
    Observers([Listener()]).on_stage_progress("train", Progress(31, 60, "steps"))
    assert len(heard) == 4
