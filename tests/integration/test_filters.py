"""A filter: an optional stage that rejects clips, with reasons, and leaves no trace where it is not used."""

import os
import signal
from enum import StrEnum
from pathlib import Path

import pytest

from sana.artifact import Artifact, Draft, Recipe
from sana.data.rejections import check_rejects
from sana.data.tables import read_table
from sana.errors import ConfigError, RejectedError
from sana.pipeline import graph
from sana.pipeline.plan import inputs_of, plan
from sana.report.page import data_report
from sana.report.states import StageState
from sana.stages.bodies.clip_filter import KEPT, Verdict, filter_clips
from tasks.tracking.values import metrics, pipeline_key
from tests.forked import one_stage, start
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.report_pages import Page

pytestmark = pytest.mark.timeout(120)
WORDS = ("filter_captions.min_words=16", "filter_captions.max_words=23")  # of 14 captions, one is shorter, one longer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Outcome]:
    """The demo up to bucket, without a filter."""
    place = new_place(tmp_path_factory.mktemp("filters"), Path("none"))
    with inline_workers():
        return place, run_stages(place.context(), last="bucket")


@pytest.fixture(scope="module")
def filtered(plain: tuple[Place, Outcome]) -> Outcome:
    return run_stages(plain[0].context(*WORDS), last="bucket")


def test_a_run_without_the_section_has_no_such_stage(plain: tuple[Place, Outcome]) -> None:
    place, outcome = plain
    config = place.config()
    optional = {"filter_captions", "encode_masks", "encode_features", "check_base", "publish"}
    assert graph.stages_of(config) == tuple(name for name in graph.STAGES if name not in optional)
    assert outcome.ran == ["download", "probe", "bucket"]
    assert "filter_captions" not in {one.name for one in plan(place.context(), last="bucket")}
    assert pipeline_key(config) != pipeline_key(place.config(*WORDS))
    with pytest.raises(ConfigError, match="does not use stage filter_captions: set its section"):
        graph.until(config, "filter_captions")


def test_clips_are_rejected_with_reasons_and_nobody_else_knows(plain: tuple[Place, Outcome], filtered: Outcome) -> None:
    place, unfiltered = plain
    assert filtered.ran == ["filter_captions", "bucket"], "download and probe are those of the run without it"
    made = filtered["filter_captions"]
    rejects = read_table(place.context().store, made, "rejects.parquet").to_pylist()
    assert {(row["path"], row["stage"], row["reason"], row["detail"]) for row in rejects} == {
        ("short-00.mp4", "filter_captions", "caption_too_short", "14 words; min_words is 16"),
        ("bunny-00.mp4", "filter_captions", "caption_too_long", "24 words; max_words is 23"),
    }
    assert made.counts.num_in == made.counts.num_out + 2 == unfiltered["probe"].counts.num_out
    assert filtered["bucket"].counts.num_in == made.counts.num_out
    kept = read_table(place.context().store, made, "clips.parquet")
    assert kept.schema.equals(read_table(place.context().store, unfiltered["probe"], "clips.parquet").schema)


def test_it_is_in_the_plan_the_report_and_mlflow(plain: tuple[Place, Outcome], filtered: Outcome) -> None:
    context = plain[0].context(*WORDS)
    order = [one.name for one in plan(context, last="bucket")]
    assert order == ["download", "probe", "filter_captions", "bucket"]
    assert [one.state for one in plan(context, last="bucket")] == ["cached"] * 4
    fresh = {one.name: one for one in plan(plain[0].context("filter_captions.min_words=2"), last="bucket")}
    assert fresh["filter_captions"].state == "stale" and "14 clips to do" in fresh["filter_captions"].detail
    assert fresh["bucket"].state == "pending" and "filter_captions" in fresh["bucket"].detail
    states = [StageState(name, "committed", made) for name, made in filtered.artifacts.items()]
    words = Page(data_report(context, "demo", states, now=0.0)).words
    assert "14 = 12 + 2" in words and "holds at every stage" in words and "caption_too_long" in words
    numbers = metrics(filtered["filter_captions"])
    assert (numbers["clips_rejected"], numbers["clips_rejected.caption_too_short"]) == (2, 1)


def test_a_filter_that_rejects_nothing_moves_nothing_below_it(plain: tuple[Place, Outcome]) -> None:
    outcome = run_stages(plain[0].context("filter_captions.min_words=1"), last="bucket")
    assert outcome.ran == ["filter_captions"]
    assert outcome["bucket"] == plain[1]["bucket"]


def test_the_limit_of_a_data_set_holds_for_it(plain: tuple[Place, Outcome]) -> None:
    context = plain[0].context("filter_captions.min_words=20")  # 3 of 14, where a fifth may be rejected
    outcome = run_stages(context, last="filter_captions")
    with pytest.raises(RejectedError, match=r"filter_captions: .* 3 of 14 clips were rejected \(3 caption_too_short\)"):
        check_rejects(context.config, outcome["filter_captions"], context.store)


def commit_and_die(place: Place, marker: Path, *overrides: str) -> None:
    """Run the stage in this process, which is killed once its tables are written, before they are committed."""
    Draft.commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    one_stage(place, "filter_captions", marker, *overrides)


def test_killed_it_leaves_nothing_that_counts(plain: tuple[Place, Outcome], tmp_path: Path) -> None:
    place = plain[0]
    limits = ("filter_captions.min_words=17", "filter_captions.max_words=23")
    process = start(commit_and_die, place, tmp_path / "began", *limits)
    process.join()
    assert process.exitcode == -signal.SIGKILL and (tmp_path / "began").exists()
    assert {one.name: one.state for one in plan(place.context(*limits), last="bucket")}["filter_captions"] != "cached"
    again = run_stages(place.context(*limits), last="filter_captions")
    assert again.ran == ["filter_captions"] and again["filter_captions"].counts.num_rejected == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filter_captions={}", "neither min_words nor max_words is set"),
        ("filter_captions={min_words: 9, max_words: 3}", "min_words 9 is above max_words 3"),
        ("filter_captions.min_words=0", "filter_captions.min_words"),
        ("filter_captions.mni_words=3", "filter_captions.mni_words: unknown key; did you mean min_words"),
    ],
)
def test_a_section_that_makes_no_sense_is_an_error(plain: tuple[Place, Outcome], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plain[0].config(override)


class Only(StrEnum):
    ONE = "one"


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [([KEPT] * 13, "13 verdicts on 14 clips"), ([Verdict("two", "")] * 14, "two is not in Only")],
)
def test_a_verdict_must_be_declared_and_of_a_clip(
    plain: tuple[Place, Outcome], verdicts: list[Verdict], message: str
) -> None:
    context = plain[0].context()
    inputs: dict[str, Artifact] = inputs_of(context, "bucket")
    with pytest.raises(ValueError, match=message):
        filter_clips(context, Recipe("f", 1, {}, {}), inputs, lambda clips: verdicts, reasons=Only)
