"""`compare` against numbers worked out by hand, and what it says where two sides were evaluated on other things."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from flows.display.comparison import comparison_text, differences_table, sides_table
from sana.comparison.compare import compare
from sana.comparison.data import ClipCounts
from sana.comparison.lineage import Lineage
from sana.comparison.record import Comparison, PairComparison
from sana.comparison.subjects import trained_subject
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.report.comparison.page import comparison_page
from sana.runs.compared import find_subject
from sana.store import Store, open_store
from tests.made_up_runs import Clip, Data, Made, Training, evaluate_on_request, make_data, make_training, put_run
from tests.report_pages import Page

CLIPS = (
    Clip("clip-a"),
    Clip("clip-b"),
    Clip("clip-c", bucket="17x32x32", dataset="dogs"),
    Clip("clip-t", split="train"),
)
# By hand: B - A is -0.5, -0.5 and +0.5 by clip, so -1/6 with a standard error of 1/3 (see test_paired.py)
OF_A = {"clip-a": (2.0, 2.0), "clip-b": (3.0, 6.0), "clip-c": (1.0, 4.0)}
OF_B = {"clip-a": (1.0, 2.0), "clip-b": (3.0, 5.0), "clip-c": (2.0, 4.0)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def compared(store: Store, *trainings: Training) -> Comparison:
    lineage = Lineage(store)
    return compare([trained_subject(one.train.fingerprint, lineage, one.train, "ema") for one in trainings])


def pair_of(store: Store, a: Made, b: Made, *, data: Data | None = None, of_b: Data | None = None) -> PairComparison:
    """Compare two trainings, which differ in a setting at least: equal ones would be one."""
    data = data or make_data(store, CLIPS)
    b = replace(b, settings=b.settings or {"learning_rate": 3e-3})
    return compared(store, make_training(store, data, a), make_training(store, of_b or data, b)).pairs[0]


def test_the_numbers_are_those_worked_out_by_hand(store: Store) -> None:
    pair = pair_of(store, Made(OF_A), Made(OF_B, settings={"learning_rate": 2e-3}))
    loss = pair.losses.eval_loss
    assert (loss.loss, loss.reference) == (pytest.approx(8.5 / 3), pytest.approx(3.0))
    assert (loss.difference, loss.stderr) == (pytest.approx(-1 / 6), pytest.approx(1 / 3))
    low, high = (level.loss for level in pair.losses.sigmas)
    assert (low.difference, low.stderr) == (0.0, pytest.approx(math.sqrt(1 / 3)))
    assert (high.difference, high.stderr) == (pytest.approx(-1 / 3), pytest.approx(1 / 3))
    buckets, datasets = pair.losses.buckets, pair.losses.datasets
    assert (buckets["9x32x32"].difference, buckets["9x32x32"].stderr) == (-0.5, 0.0)
    assert (datasets["dogs"].difference, datasets["dogs"].stderr, datasets["dogs"].num_samples) == (0.5, None, 1)
    assert pair.losses.common.is_all and not pair.losses.notes
    assert [(change.stage, change.changes) for change in pair.config] == [("train", ("learning_rate 0.001 -> 0.002",))]
    assert pair.train_clips is not None and pair.train_clips.is_same


@pytest.mark.parametrize("width", [60, 80, 120])
def test_rows_fit_the_terminal_and_sides_are_told_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Of a long name the middle is left out: its end, the fingerprint, stays."""
    monkeypatch.setattr("flows.display.comparison.terminal_width", lambda: width)
    data = make_data(store, CLIPS)
    a, b = make_training(store, data, Made(OF_A)), make_training(store, data, Made(OF_B, base="base-2"))
    found = compared(store, a, b)
    long = "a-config-with-a-name-that-no-table-of-eighty-columns-has-room-for"
    sides = tuple(replace(side, title=long, step=12345) for side in found.sides)
    table = sides_table(sides).splitlines()
    assert all(len(row) <= width for row in table), table
    for row, side in zip(table[1:], sides, strict=True):
        assert row.split()[1].startswith("a-co") and side.train[3:8] in row
    [pair] = found.pairs
    loss = pair.losses.eval_loss
    pair = replace(pair, losses=replace(pair.losses, datasets={f"{long}-{number}": loss for number in "12"}))
    rows = differences_table(pair).splitlines()
    assert all(len(row) <= max(width, 70) for row in rows), rows
    assert sum(row.split(" \u2026 ")[0].startswith("data") for row in rows) == 2


def test_the_reverse_is_the_same_with_other_signs(store: Store) -> None:
    data = make_data(store, CLIPS)
    a, b = make_training(store, data, Made(OF_A)), make_training(store, data, Made(OF_B, base="base-2"))
    there, back = compared(store, a, b).pairs[0].losses, compared(store, b, a).pairs[0].losses
    assert there.eval_loss.difference == -back.eval_loss.difference
    assert there.eval_loss.stderr == back.eval_loss.stderr
    assert compared(store, a, a).pairs[0].losses.eval_loss.verdict == "same"


def test_a_set_that_is_measured_by_itself_is_no_part_of_the_eval_loss(store: Store) -> None:
    apart = {"separate_datasets": ["dogs"]}
    losses = pair_of(store, Made(OF_A, evaluate=apart), Made(OF_B, evaluate=apart, base="base-2")).losses
    assert (losses.eval_loss.difference, losses.eval_loss.num_samples) == (-0.5, 2)
    assert losses.separate["dogs"].difference == 0.5 and list(losses.datasets) == ["cats"]


def test_conditions_are_compared_where_both_have_them(store: Store) -> None:
    a = Made(OF_A, conditions={"first_frame": {"clip-a": (2.0, 4.0)}, "inpaint": OF_A})
    b = Made(OF_B, conditions={"first_frame": {"clip-a": (1.0, 1.0)}}, base="base-2")
    losses = pair_of(store, a, b).losses
    assert (losses.conditions["first_frame"].difference, list(losses.conditions)) == (-2.0, ["first_frame"])
    assert "condition inpaint was measured of one of the two only" in losses.notes


OTHER: dict[str, tuple[Callable[[Store], PairComparison], str, tuple[float, int]]] = {
    # a clip more in the eval split of B: the three of A are compared
    "other clips": (
        lambda store: pair_of(
            store,
            Made(OF_A),
            Made({**OF_B, "clip-d": (9.0, 9.0)}),
            of_b=make_data(store, (*CLIPS, Clip("clip-d"))),
        ),
        "on the 3 samples that both have, of 3 of A and 4 of B",
        (-1 / 6, 3),
    ),
    # clip-c was filmed again: a and b are compared, -0.5 each
    "changed video": (
        lambda store: pair_of(
            store, Made(OF_A), Made(OF_B), of_b=make_data(store, (*CLIPS[:2], Clip("clip-c", content="again")))
        ),
        "on the 2 samples that both have, of 3 of A and 3 of B (1 more were changed in between)",
        (-0.5, 2),
    ),
    "changed caption": (
        lambda store: pair_of(
            store,
            Made(OF_A),
            Made(OF_B),
            of_b=make_data(store, (*CLIPS[:2], Clip("clip-c", bucket="17x32x32", caption="a dog"))),
        ),
        "on the 2 samples that both have, of 3 of A and 3 of B (1 more were changed in between)",
        (-0.5, 2),
    ),
    # 0.5 is common to 1 and 3 levels, and their noise is not the same
    "other grid": (
        lambda store: pair_of(
            store,
            Made({"clip-a": (2.0,), "clip-b": (3.0,)}, sigmas=(0.5,)),
            Made({"clip-a": (9.0, 1.0, 9.0), "clip-b": (9.0, 1.0, 9.0)}, sigmas=(1 / 6, 0.5, 5 / 6)),
        ),
        "at 1 of 1 and 3 noise levels",
        (-1.5, 2),
    ),
    "other precision": (
        lambda store: pair_of(store, Made(OF_A), Made(OF_B, evaluate={"mixed_precision": "bf16"})),
        "mixed_precision fp32 -> bf16: losses differ by that too",
        (-1 / 6, 3),
    ),
    "other base": (
        lambda store: pair_of(store, Made(OF_A), Made(OF_B, base="base-2")),
        "the base models differ",
        (-1 / 6, 3),
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_common_is_compared_and_said(store: Store, name: str) -> None:
    make, said, (difference, num_samples) = OTHER[name]
    pair = make(store)
    assert (pair.losses.eval_loss.difference, pair.losses.eval_loss.num_samples) == (
        pytest.approx(difference),
        num_samples,
    )
    text = comparison_text(Comparison((), (pair,)))
    assert said in text


def test_nothing_common_is_an_error_that_says_why(store: Store) -> None:
    a, b = make_data(store, CLIPS), make_data(store, (Clip("clip-x"),))
    trainings = (make_training(store, a, Made(OF_A)), make_training(store, b, Made({"clip-x": (1.0, 1.0)})))
    with pytest.raises(SanaError, match="cannot be compared: of the 1 samples of one eval list and the 3 of the other"):
        compared(store, *trainings)


def test_clips_that_were_added_removed_and_changed_are_counted_and_named(store: Store) -> None:
    before = make_data(store, (*CLIPS, *(Clip(f"t-{n:02d}", "train") for n in range(20))))
    kept = [Clip(f"t-{n:02d}", "train", caption="a lion" if n == 3 else "a cat") for n in range(2, 20)]
    after = make_data(
        store, (*CLIPS[:3], Clip("clip-t", "train", content="again"), *kept, Clip("new", "train", "dogs"))
    )
    pair = pair_of(store, Made(OF_A), Made(OF_B), data=before, of_b=after)
    clips = pair.train_clips
    assert clips is not None
    assert (clips.num_a, clips.num_b, clips.added, clips.removed, clips.changed) == (21, 20, 1, 2, 2)
    assert clips.datasets == {"cats": ClipCounts(0, 2, 2), "dogs": ClipCounts(1, 0, 0)}
    named = [[clip.path for clip in first] for first in (clips.first_added, clips.first_removed, clips.first_changed)]
    assert named == [["new.mp4"], ["t-00.mp4", "t-01.mp4"], ["clip-t.mp4", "t-03.mp4"]]
    assert pair.eval_clips is not None and pair.eval_clips.is_same


@pytest.mark.parametrize(("seed", "rows"), [(0, 1), (1, 0)])
def test_videos_of_the_same_prompt_and_seed_stand_side_by_side(store: Store, seed: int, rows: int) -> None:
    data = make_data(store, CLIPS, {"cat": "a cat walks"})
    a = make_training(store, data, Made(OF_A, video=b"of a"))
    b = make_training(store, data, Made(OF_B, video=b"of b", seed=seed, base="base-2"))
    found = compared(store, a, b)
    assert len(found.samples) == rows
    if rows:
        row = found.samples[0]
        assert (row.prompt, row.text, row.seed) == ("cat", "a cat walks", 0)
        assert [store.read(video.key) for video in row.videos] == [b"of a", b"of b"]
    else:
        assert "no prompt has a video of one seed on two sides: prompts or seeds were changed" in found.notes


@pytest.mark.parametrize("leaked", [0, 1])
def test_a_side_that_was_trained_on_eval_clips_is_told(store: Store, leaked: int) -> None:
    """Evaluated on request, on the eval split of another config: clip-a, and what B was trained on."""
    data = make_data(store, CLIPS)
    trained_on = [Clip("clip-a", split="train")] if leaked else [Clip("clip-t", split="train")]
    of_b = make_data(store, [*trained_on, Clip("clip-x")])
    a, b = make_training(store, data, Made(OF_A)), make_training(store, of_b, Made(step=50))
    evaluate_on_request(store, data, b, OF_B)
    pair = compared(store, a, b).pairs[0]
    said = "B was trained on 1 of the 3 clips that it was evaluated on: its loss there is too low"
    assert (said in pair.losses.notes) == bool(leaked) and pair.losses.eval_loss.num_samples == 3


NAMES = {
    "a beginning": lambda one: one.train.fingerprint[:6],
    "the whole": lambda one: one.train.fingerprint,
    "the trajectory": lambda one: json.loads(json.dumps(dict(one.train.facts)))["trajectory"],
    "a step": lambda one: f"{one.train.fingerprint}@100",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_training(store: Store, name: str) -> None:
    one = make_training(store, make_data(store, CLIPS), Made(OF_A))
    subject = find_subject(NAMES[name](one), Lineage(store), "ema")
    assert subject.trained is not None and subject.trained.fingerprint == one.train.fingerprint
    assert subject.evaluations[0].weights == "ema"


def test_step_0_is_what_was_before_training(store: Store) -> None:
    one = make_training(store, make_data(store, CLIPS), Made(OF_A))
    lineage = Lineage(store)
    before = find_subject(f"{one.train.fingerprint}@0", lineage, "ema")
    assert before.weights == "initial" and before.evaluations[0].losses.mean() == 2.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ffff0000", "has no training or run ffff0000; it has"),
        ("x", r"has no training or run x; it has \w+ \(the beginning"),
        ("../../a", "has no training or run ../../a; it has"),
    ],
)
def test_a_name_of_nothing_is_an_error_that_says_what_there_is(store: Store, name: str, said: str) -> None:
    make_training(store, make_data(store, CLIPS), Made(OF_A))
    with pytest.raises(SanaError, match=said):
        find_subject(name, Lineage(store), "ema")


def test_a_step_without_a_checkpoint_is_an_error(store: Store) -> None:
    one = make_training(store, make_data(store, CLIPS), Made(OF_A))
    with pytest.raises(SanaError, match=r"no checkpoint of step 7 \(steps there: 100\)"):
        find_subject(f"{one.train.fingerprint}@7", Lineage(store), "ema")


def test_a_run_is_what_it_trained(store: Store) -> None:
    """A run that has finished is its artifact, though its trajectory went on; one that has not, its trajectory."""
    data = make_data(store, CLIPS)
    short, long = make_training(store, data, Made(OF_A, step=10)), make_training(store, data, Made(OF_B, step=20))
    trajectory = TrainFacts.of(short.train).trajectory
    assert trajectory == TrainFacts.of(long.train).trajectory
    put_run(store, "20261128-154012-3fa9c1", "cats", trajectory, fingerprint=short.train.fingerprint)
    put_run(store, "20261128-164012-3fa9c1", "cats", trajectory)
    document, _ = run(store, "20261128-154012-3fa9c1", "20261128-164012-3fa9c1", "20261128-164012-3fa9c1@0", "--json")
    found = Comparison.from_json(document, where="--json")
    assert [(side.train, side.step) for side in found.sides] == [
        (short.train.fingerprint, 10),
        (long.train.fingerprint, 20),
        ("", 0),
    ]
    assert [side.name for side in found.sides][0] == "20261128-154012-3fa9c1"


@pytest.mark.parametrize("run_id", ["20260101-000000-000000", "20260101-000000-000001"])
def test_a_run_that_is_not_there_or_trained_nothing_is_an_error(store: Store, run_id: str) -> None:
    put_run(store, "20260101-000000-000001", "cats", "")
    with pytest.raises(
        SanaError, match=f"has no training or run {run_id}; did you mean|run {run_id} has trained nothing"
    ):
        CliRunner().invoke(cli, ["compare", run_id, run_id, "--root", store.root], catch_exceptions=False)


def run(store: Store, *arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(cli, ["compare", *arguments, "--root", store.root], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def test_the_command_prints_a_table_a_document_and_a_page(store: Store, tmp_path: Path) -> None:
    data = make_data(store, CLIPS, {"cat": "a cat <script>alert(1)</script>"})
    a = make_training(store, data, Made(OF_A, video=b"of a"))
    b = make_training(store, data, Made(OF_B, settings={"note": "<script>alert(2)</script>\x1b[31m"}, video=b"of b"))
    names = (a.train.fingerprint, b.train.fingerprint)
    text, _ = run(store, *names)
    assert "B is not surely better or worse than A: its eval loss is -0.1667" in text and "\x1b" not in text
    document, told = run(store, *names, "--json", "-o", str(tmp_path / "page.html"))
    found = Comparison.from_json(document, where="--json")
    assert found.pairs[0].losses.eval_loss.difference == pytest.approx(-1 / 6)
    assert "page:" in told
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.scripts) == 1  # the page's own
    assert "alert(1)" in page.words and "alert(2)" in page.words
    videos = [attributes["src"] for tag, attributes in page.tags if tag == "video"]
    assert videos == ["data:video/mp4;base64,b2YgYQ==", "data:video/mp4;base64,b2YgYg=="]


def test_videos_that_do_not_fit_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(store, CLIPS, {"cat": "a cat"})
    a = make_training(store, data, Made(OF_A, video=b"of a"))
    b = make_training(store, data, Made(OF_B, video=b"of b, which is long", base="base-2"))
    monkeypatch.setattr("sana.report.comparison.page.MAX_VIDEO_BYTES", 10)
    page = Page(comparison_page(compared(store, a, b), {store.root: store}, now=0.0))
    assert len([tag for tag, _ in page.tags if tag == "video"]) == 1
    assert "not in this page, which would be too large" in page.words


def test_one_that_was_never_evaluated_is_told_of_with_the_way(store: Store) -> None:
    data = make_data(store, CLIPS)
    a, b = make_training(store, data, Made(OF_A)), make_training(store, data, Made(base="base-2"))
    command = ["compare", a.train.fingerprint, b.train.fingerprint, "--root", store.root]
    with pytest.raises(SanaError, match=r"was never evaluated; --config CONFIG --evaluate does it"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
