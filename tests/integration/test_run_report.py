"""The run report: its numbers are those of the artifacts, whatever became of the training; names in it are text."""

import re
from pathlib import Path

import numpy as np
import pytest

from sana.artifact import Draft, Recipe
from sana.comparison.lineage import Lineage
from sana.counts import Counts
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.report.html import environment
from sana.report.states import StageState
from sana.report.training.clips import clips
from sana.report.training.find import find_subject
from sana.report.training.page import training_report
from sana.report.training.result import result
from sana.report.training.subject import Subject, finished_subject
from sana.report.training.verdict import Ending
from sana.runs.records import RunEnd
from sana.runtime.results import BaseCheckReport, ProbeVerdict
from sana.store import LocalStore, open_store
from tests.made_trainings import MadeTraining, losses_around, rows_of, video_bytes
from tests.report_pages import Page, assert_harmless
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(120)

HOSTILE = "<script>alert(1)</script>\"'&\u202e"


def whole(folder: Path, **names: str) -> MadeTraining:
    """A training of 40 steps in two attempts, with videos of three steps; evaluated and sampled."""
    made = MadeTraining(LocalStore(str(folder)), **names)
    made.prepare()
    made.write(0, 20, "aaaa", rows_of(0, 20))
    made.write(21, 40, "bbbb", rows_of(21, 40))
    for step in (0, 20):
        made.validate(step, {"bunny": video_bytes(step)})
    made.finish()
    made.evaluate(
        {"initial": losses_around(1.5, 0.2), "live": losses_around(0.9, 0.2, seed=1), "ema": losses_around(0.8, 0.2)},
        step=40,
    )
    made.sample({"bunny": video_bytes(40)})
    return made


def page_of(made: MadeTraining, *, title: str = "demo", now: float = 0.0) -> str:
    lineage = Lineage(made.store)
    return training_report(finished_subject(lineage, next(lineage.all("train")), title=title), now=now)


def unfinished(made: MadeTraining, state: str = "", error: str = "") -> Subject:
    subject = find_subject(Lineage(made.store), made.trajectory)
    return Subject(subject.lineage, "demo", made.trajectory, subject.data, made.recipe(), Ending(state, error), 40)


def test_the_numbers_are_those_of_the_artifacts(tmp_path: Path) -> None:
    made = whole(tmp_path)
    words = assert_harmless(page_of(made)).words
    evaluated = next(Lineage(made.store).all("evaluate"))
    # worked out again from the table of losses, as a reader would
    rows = read_table(made.store, evaluated, "losses.parquet").to_pylist()
    of = {
        name: np.array([[row["loss"] for row in rows if (row["weights"], row["sample_id"]) == (name, sample)]
                        for sample in sorted({row["sample_id"] for row in rows})]).mean(axis=1)
        for name in ("initial", "live", "ema")
    }  # fmt: skip
    for name in ("live", "ema"):
        difference = of[name] - of["initial"]
        stderr = difference.std(ddof=1) / len(difference) ** 0.5
        assert f"paired difference {difference.mean():+.4f} \u00b1 {stderr:.4f}" in words
        assert f"{of['initial'].mean():.4f} before training, {of[name].mean():.4f} after" in words
    drop = 1 - of["ema"].mean() / of["initial"].mean()
    assert f"It learned: {100 * drop:.1f} % less eval loss on 12 held-out samples" in words
    assert "clips in102 rejected" in words and "train samples62 held out" in words  # tiles: 10 in, 6 and 2
    assert "demo1026r1" in words.replace(" ", ""), "the row of the data set: 10 clips in, 2 rejected, 6 samples, r1"
    # 40 steps of 2 s, 5 evaluations of 3 s
    assert "training took1 min 35 s2 attempts" in words
    assert "8 x cuda NVIDIA <H100>" in words and f"{95 / 3600 * 8:.2f} device hours" in words
    assert "attempt 2 from step 20" in words and "aaaa0 to 20" in words and "bbbb21 to 40" in words
    assert "checkpoint kept at 20" in words and "learning_rate0.001" in words
    for digest in ("lt", "w0", "p0", "v0"):
        assert digest in words
    assert "0.8 loss" not in words and "% of the first at sigma 0.125, step 40" in words


def test_names_that_are_markup_are_text(tmp_path: Path) -> None:
    made = whole(tmp_path, dataset=HOSTILE)
    text = page_of(made, title=HOSTILE)
    page = assert_harmless(text)
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert page.words.count(shown) >= 3 and "<script>alert" not in text
    failed = assert_harmless(training_report(unfinished(made, "failed", HOSTILE), now=0.0))
    assert f"It ended with: {shown}" in failed.words


def test_equal_artifacts_give_equal_bytes_but_for_the_time(tmp_path: Path, s3: WeedServer) -> None:
    made = whole(tmp_path)
    one, again, later = (page_of(made, now=now).splitlines() for now in (0.0, 0.0, 86400.0))
    assert one == again
    differ = [(a, b) for a, b in zip(one, later, strict=True) if a != b]
    assert [a.replace("1970-01-01", "1970-01-02") for a, _ in differ] == [b for _, b in differ] and len(differ) == 1
    there = open_store(f"s3://{s3.bucket}/run-report")
    for key, _ in made.store.list(""):
        assert there.put_if_absent(key, made.store.read(key))
    moved = page_of(MadeTraining(there))
    assert moved.replace(there.root, made.store.root) == "\n".join(one)


def test_videos_play_in_the_page_as_far_as_its_bytes_go(tmp_path: Path) -> None:
    made = whole(tmp_path)
    text = page_of(made)
    assert text.count("<video ") == 3 and "media-src data:" in text
    shown = re.findall(r"<b>step (\d+)</b>(, stage sample)?", text)
    assert shown == [("0", ""), ("20", ""), ("40", ", stage sample")]
    sampled = next(Lineage(made.store).all("sample"))
    size = sampled.files["bunny.mp4"].num_bytes
    few = clips(made.store, made.trajectory, sampled, step=40, texts={}, max_bytes=size + 10)
    assert few is not None and few.num_inside == 1
    assert [bool(clip.mp4) for clip in few.strips[0].clips] == [False, False, True], "the last comes first"
    for clip in few.strips[0].clips[:2]:
        assert clip.jpeg and clip.why == "too large for this page" and clip.uri.endswith("bunny.mp4")
    made.store.delete(sampled.files["bunny.mp4"].key)
    assert "it is gone" in Page(page_of(made)).words


def test_many_prompts_and_steps_are_bounded(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    video = video_bytes(0)
    for step in range(0, 90, 10):
        made.validate(step, {f"p{number:02d}": video for number in range(15)})
    found = clips(made.store, made.trajectory, None, step=80, texts={}, max_bytes=20 * len(video))
    assert found is not None
    assert (len(found.strips), found.num_left_out, found.num_steps, found.num_inside) == (12, 3, 9, 20)
    assert [clip.step for clip in found.strips[0].clips] == [0, 20, 30, 50, 60, 80]
    assert all(strip.clips[-1].mp4 for strip in found.strips)


def test_a_training_that_failed_tells_the_error_and_how_far_it_came(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.prepare()
    made.write(0, 20, "aaaa", rows_of(0, 20))
    words = Page(training_report(unfinished(made, "failed", "the loss is nan"), now=0.0)).words
    assert "Failed at step 20 of 40 It ended with: the loss is nan" in words
    assert "went from 1.0000 \u00b1 0.0100 at step 0 to 0.3333 \u00b1 0.0100 at step 20" in words
    assert "Evaluated" not in words and "Eval loss by noise level over steps" in words
    nothing = MadeTraining(made.store, trajectory="beefbeefbeefbeef")
    subject = Subject(Lineage(made.store), "demo", nothing.trajectory, made.data, made.recipe(), max_steps=40)
    assert "Nothing trained yet" in Page(training_report(subject, now=0.0)).words


def test_a_finished_training_without_evaluation_and_with_lost_metrics(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.prepare()
    made.write(0, 20, "aaaa", rows_of(0, 20))
    made.write(21, 40, "aaaa", rows_of(21, 40))
    made.finish()
    made.store.delete(made.segments[0].key)
    words = Page(page_of(made)).words
    assert "Not evaluated yet" in words and "the metrics of steps 0 to 20 are gone" in words
    assert "aaaa0 to 40" in words, "one attempt: nothing was resumed"


def test_a_base_that_was_warned_of_and_early_stopping_are_told(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.prepare()
    rows = [*rows_of(0, 30), {"step": 30, "eval/best_step": 20, "train/loss_spike": 7.5, "train/skipped_steps": 1}]
    made.write(0, 30, "aaaa", rows)
    made.finish(step=20, early_stopping={"every": 10})
    made.evaluate({name: losses_around(1.0, 0.1) for name in ("initial", "live", "ema")}, step=20)
    draft = Draft(made.store, Recipe("check_base", 1, {}, {"latents": "le", "transformer": "base"}))
    probes = (ProbeVerdict("captions", "failed", "captions change nothing"),)
    draft.add(BaseCheckReport.FILE, BaseCheckReport(2, (), {}, (), (), 0.0, 0.0, probes).to_json())
    draft.commit(content={"base_check": "b"}, counts=Counts.all_kept(2))
    words = Page(page_of(made)).words
    assert "It changed nothing" in words and "Base check, captions: captions change nothing" in words
    assert "Early stopping ended it after step 30 of 40" in words and "those of step 20" in words
    assert "1 loss spike, at step 30 (7.5)" in words and "1 step was skipped" in words
    assert "lowest eval loss" in words


def test_earlier_trainings_of_the_same_data_are_compared(tmp_path: Path) -> None:
    made = whole(tmp_path)
    second = MadeTraining(made.store, trajectory="beefbeefbeefbeef")
    second.write(0, 40, "cccc", rows_of(0, 40))
    trained = second.finish(weights="other", learning_rate=2e-3, seed=5)
    lineage = Lineage(made.store)
    subject = finished_subject(lineage, trained)
    words = Page(training_report(subject, now=0.0)).words
    first = next(one for one in lineage.all("train") if TrainFacts.of(one).trajectory == made.trajectory)
    assert first.fingerprint in words and "the same train samples" in words
    assert "learning_rate 0.001 -> 0.002" in words and "seed (not set) -> 5" in words
    report = next(lineage.all("evaluate"))
    assert report.inputs["weights"] == "trained" and "Not evaluated yet" in words


def test_a_training_is_found_by_its_names(tmp_path: Path) -> None:
    made = whole(tmp_path)
    lineage = Lineage(made.store)
    trained = next(lineage.all("train"))
    begun = MadeTraining(made.store, trajectory="beefbeefbeefbeef")
    begun.write(0, 10, "cccc", rows_of(0, 10))
    for name in (trained.fingerprint, trained.fingerprint[:6], made.trajectory):
        assert find_subject(lineage, name).train == trained
    found = find_subject(lineage, "beefbeef")
    assert found.train is None and list(found.data) == list(made.data), "what it reads is found by its digests"
    made.run("20261128-100000-aaaaaa", heard_at=1000.0, state="completed")
    assert find_subject(lineage, "20261128-100000-aaaaaa").train == trained
    with pytest.raises(SanaError, match=r"has no training or run beefbeex; did you mean beefbeefbeefbeef"):
        find_subject(lineage, "beefbeex")
    nothing = MadeTraining(made.store, trajectory="")
    nothing.run("20261128-100000-bbbbbb", heard_at=1000.0, state="failed", error="no clips")
    with pytest.raises(SanaError, match="has trained nothing"):
        find_subject(lineage, "20261128-100000-bbbbbb")


def test_the_data_report_begins_with_the_result(tmp_path: Path) -> None:
    made = whole(tmp_path)
    lineage = Lineage(made.store)
    artifacts = dict(finished_subject(lineage, next(lineage.all("train"))).artifacts)
    states = [StageState(name, "committed", artifact) for name, artifact in artifacts.items()]
    found = result(made.store, artifacts, states)
    assert found is not None and found.chart is not None and found.verdict.tone == "good"
    assert [len(one.frames) for one in found.sampled] == [4] and found.num_left_out == 0
    text = environment().get_template("sections/result.html.j2").render(result=found)
    assert "It learned" in text and text.count("data:image/jpeg") == 4 and "Eval loss by noise level" in text
    made.store.delete(artifacts["sample"].files["bunny.mp4"].key)
    gone = result(made.store, artifacts, states)
    assert gone is not None and gone.sampled[0].why == "it is gone"
    # what comes of it while it is under way, and when something fails
    data = made.data
    assert result(made.store, data, []) is None
    failed = result(made.store, data, [StageState("train", "failed", None, "no <memory>")])
    assert failed is not None and (failed.verdict.headline, failed.verdict.said) == (
        "Training failed",
        ("no <memory>",),
    )
    trained = {**data, "train": artifacts["train"]}
    waiting = result(made.store, trained, [StageState("evaluate", "failed", None, "no eval clips")])
    assert waiting is not None and "not evaluated yet: no eval clips" in waiting.verdict.said[0]


@pytest.mark.parametrize(
    ("state", "now", "headline", "said"),
    [
        (None, 1010.0, "Still training: step 25 of 40", "from 1.0000 \u00b1 0.0100 at step 0"),
        (None, 9999.0, "No sign of life since step 25 of 40", "killed, or cannot write"),
        ("failed", 1010.0, "Failed at step 25 of 40", "It ended with: no <memory>"),
        ("stopped", 1010.0, "Stopped at step 25 of 40", "resumes it"),
    ],
)
def test_what_runs_have_on_record_is_told(
    tmp_path: Path, state: RunEnd | None, now: float, headline: str, said: str
) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.prepare()
    made.write(0, 20, "aaaa", rows_of(0, 20))
    made.run("20261127-100000-aaaaaa", heard_at=900.0, state="failed", error="the first <b>")
    made.run("20261128-100000-bbbbbb", heard_at=1000.0, rows=rows_of(15, 25), state=state, error="no <memory>")
    text = training_report(find_subject(Lineage(made.store), made.trajectory), now=now)
    words = assert_harmless(text).words
    assert headline in words and said in words and "<h1>demo</h1>" in text
    assert "20261127-100000-aaaaaamachine" in words and "failed: the first <b>" in words


def test_the_newest_run_says_why_a_training_is_not_evaluated(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.prepare()
    made.write(0, 40, "aaaa", rows_of(0, 40))
    made.finish()
    made.run("20261128-100000-aaaaaa", heard_at=1000.0, state="failed", error="no room for the VAE", title="mine")
    lineage = Lineage(made.store)
    text = training_report(finished_subject(lineage, next(lineage.all("train"))), now=2000.0)
    assert "its weights are not evaluated yet: no room for the VAE" in Page(text).words and "<h1>mine</h1>" in text
