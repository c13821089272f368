"""The window table: every clip gets a bucket, windows and a split or a rejection, whatever the order of clips."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.artifact import Artifact
from sana.config.bucket import BucketConfig, BucketRules
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.data.bucketing.split_check import check_splits
from sana.data.bucketing.window_table import make_window_table
from sana.data.schemas import PROBED, REJECTS, WINDOWS
from sana.errors import ConfigError, RejectedError
from sana.stages import bucket as stage
from sana.store import open_store
from tests.bucket_rules import clip, config, configs
from tests.probed_clips import probed

pytestmark = pytest.mark.timeout(60)


def as_set(table: pa.Table) -> set[str]:
    return {str(sorted(row.items())) for row in table.to_pylist()}


@given(config=configs(), clips=st.lists(clip, max_size=25), random=st.randoms())
def test_every_clip_is_kept_or_rejected_whatever_the_order(config: Config, clips: list, random) -> None:
    table = probed(clips)
    assigned = make_window_table(table, config)
    assert assigned.windows.schema == WINDOWS and assigned.rejects.schema == REJECTS
    kept, rejected = assigned.windows["clip_id"].to_pylist(), assigned.rejects["clip_id"].to_pylist()
    assert sorted({*kept, *rejected}) == sorted(table["clip_id"].to_pylist())
    assert len(rejected) == len(set(rejected)) and not set(kept) & set(rejected)
    assert (
        len(set(assigned.windows["sample_id"].to_pylist())) == assigned.windows.num_rows == assigned.counts.num_samples
    )
    assert (assigned.counts.num_in, assigned.counts.num_out) == (len(clips), len(set(kept)))
    assert assigned.facts.frames == assigned.facts.frames_used + assigned.facts.frames_dropped
    assert set(assigned.counts.datasets) == set(table["dataset"].to_pylist())

    order = list(range(len(clips)))
    random.shuffle(order)
    shuffled = make_window_table(table.take(pa.array(order, pa.int64())), config)
    assert as_set(shuffled.windows) == as_set(assigned.windows)
    assert as_set(shuffled.rejects) == as_set(assigned.rejects)
    assert (shuffled.counts, shuffled.facts) == (assigned.counts, assigned.facts)


@given(config=configs(), clips=st.lists(clip, max_size=25))
def test_slices_change_nothing(config: Config, clips: list) -> None:
    table = probed(clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sana.data.bucketing.window_table._SLICE_WINDOWS", 3)
        patch.setattr("sana.data.bucketing.split._SLICE", 2)
        sliced = make_window_table(table, config)
    whole = make_window_table(table, config)
    assert sliced.windows.to_pylist() == whole.windows.to_pylist()
    assert sliced.rejects.to_pylist() == whole.rejects.to_pylist()


def test_a_row_keeps_what_probe_found() -> None:
    table = probed([{"width": 1920, "height": 1080, "num_frames": 200, "codec": "hevc"}, {"height": 480}])
    windows = make_window_table(table, config(window="uniform", windows_per_clip=3, eval_fraction=0.5)).windows
    assert windows.num_rows == 4
    assert windows.select(PROBED.names).take([0, 1, 2, 3]).to_pylist() == table.take([0, 0, 0, 1]).to_pylist()
    assert windows["sample_id"][1].as_py() == f"{table['clip_id'][0]}-000060"


def test_frames_that_4k_plus_1_drops_are_counted() -> None:
    table = probed([{"num_frames": 100}, {"num_frames": 81}, {"num_frames": 20}])
    made = make_window_table(table, config(eval_fraction=0.5))
    assert made.counts.reasons == {"too_short": 1}  # its frames are not counted as dropped
    assert (made.facts.frames, made.facts.frames_used, made.facts.frames_dropped) == (181, 162, 19)
    made = make_window_table(table, config(strategy="resolution_frames", num_frames=81, eval_fraction=0.5))
    assert made.facts.frames_dropped == (100 - 81) + 0 + (20 - 17)


@pytest.mark.parametrize(("frames", "length"), [(16, 1), (17, 17), (48, 33), (80, 65), (81, 81), (500, 81)])
def test_resolution_frames_takes_the_longest_that_fits(frames: int, length: int) -> None:
    windows = make_window_table(
        probed([{"num_frames": frames}]), config(strategy="resolution_frames", frame_interval=16)
    ).windows
    assert windows["bucket"].to_pylist() == [f"{length}x480x832"]


def test_frames_are_counted_at_the_target_rate() -> None:
    table = probed([{"num_frames": 240, "fps": 30.0}, {"num_frames": 120, "fps": 30.0}])
    assigned = make_window_table(table, config(target_fps=16, window="stride", windows_per_clip=9, window_stride=20))
    assert assigned.windows["start_frame"].to_pylist() == [0, 20, 40]  # 128 frames in 8 s
    assert assigned.windows["window_fps"].to_pylist() == [16.0] * 3
    assert assigned.rejects["detail"].to_pylist() == ["64 frames at 16 fps; the shortest bucket needs 81"]


def test_trimmed_clips_are_used_up_to_max_frames() -> None:
    table = probed([{"num_frames": 500}])
    rules = {"max_frames": 101, "window": "uniform", "windows_per_clip": 2}
    assert make_window_table(table, config(**rules)).windows["start_frame"].to_pylist() == [0, 20]
    assert make_window_table(table, config(max_frames=61, num_frames=49)).windows["bucket"].to_pylist() == [
        "49x480x832"
    ]
    assert make_window_table(table, config(**rules, too_long="reject")).rejects["reason"].to_pylist() == ["too_long"]


# ---- data sets with rules and roles of their own


def test_a_data_set_follows_its_own_rules_and_role() -> None:
    clips = [{"dataset": name, "num_frames": 40} for name in ("a", "b", "c") for _ in range(10)]
    own = BucketRules(num_frames=17, window="middle")
    both = config({"id": "a"}, {"id": "b", "bucket": own, "role": "train"}, {"id": "c", "role": "eval"}, num_frames=33)
    rows = make_window_table(probed(clips), both).windows.to_pylist()
    seen = {(r["dataset"], r["bucket"], r["start_frame"], r["split"]) for r in rows}
    assert {s for s in seen if s[0] != "a"} == {("b", "17x480x832", 11, "train"), ("c", "33x480x832", 0, "eval")}
    assert {s[1:3] for s in seen if s[0] == "a"} == {("33x480x832", 0)}


def recipe(config: Config) -> Any:
    probe = Artifact("probe", "f", 1, {}, {}, {"clips": "digest"}, Counts.all_kept(0), {})
    return stage.recipe(Context(config, open_store("/nonexistent"), Path()), {"probed_clips": probe})


def test_only_deviating_rules_and_roles_enter_the_recipe() -> None:
    plain = recipe(config({"id": "a"}))
    assert plain.config == BucketConfig().hashed()
    assert recipe(config({"id": "a"}, {"id": "b", "bucket": {}, "repeats": 3, "sampling_weight": 2.0})) == plain
    assert recipe(config({"id": "a"}, {"id": "b", "role": "eval", "disabled": True})) == plain
    role = recipe(config({"id": "a"}, {"id": "b", "role": "eval"}))
    assert role.config["datasets"] == {"b": {"role": "eval"}}
    rules = recipe(config({"id": "a"}, {"id": "b", "bucket": {"num_frames": 33}}))
    assert rules.config["datasets"]["b"]["bucket"]["num_frames"] == 33
    assert len({r.fingerprint for r in (plain, role, rules)}) == 3


# ---- the split


def test_the_split_depends_on_the_source_alone() -> None:
    clips = [{"source_id": f"s{i % 400}"} for i in range(800)]
    rows = make_window_table(probed(clips), config(eval_fraction=0.25, holdout=("s7",))).windows.to_pylist()
    sides = {r["source_id"]: r["split"] for r in rows}
    assert all(sides[r["source_id"]] == r["split"] for r in rows) and sides["s7"] == "eval"
    assert 70 < sum(side == "eval" for side in sides.values()) < 130
    # golden: neither more data nor a change of the code moves a source
    assert [sides[f"s{i}"] for i in range(7)] == SPLIT
    few = make_window_table(probed(clips[:50]), config(eval_fraction=0.25)).windows.to_pylist()
    assert all(sides[r["source_id"]] == r["split"] for r in few if r["source_id"] != "s7")


SPLIT = ["eval", "train", "train", "train", "eval", "train", "train"]


@pytest.mark.parametrize(
    ("clips", "config", "error", "message"),
    [
        ([{}, {}], config(eval_fraction=0), RejectedError, "the eval split is empty: 2 clips, 2 sources are left; "
         "bucket.eval_fraction is 0; bucket.eval_fraction 0.0021 would hold out 1 of 2 sources"),
        ([{"source_id": "a"}] * 3, config(eval_fraction=0.5), RejectedError, "at least two sources are needed.* is a$"),
        ([{"path": "a/b.mp4"}], config(), RejectedError, "at least two sources are needed.* there is a/b.mp4$"),
        ([{}] + [{"dataset": "x", "source_id": "a"}] * 3, config({"id": "x"}, {"id": "demo", "role": "train"},
         eval_fraction=0), RejectedError, "eval split is empty: 4 clips, 2 sources are left; at least two"),
        ([{}, {}], config({"id": "demo", "role": "train"}), RejectedError, "left; all are in data sets of role: train"),
        ([{"path": "a.mp4"}, {"path": "b.mp4"}], config(holdout=("*.mp4",)), RejectedError,
         "train split is empty: 2 clips.*; all are held out by bucket.holdout, or"),
        ([{"digest": "d"}, {"digest": "d", "dataset": "x"}], config({"id": "demo"}, {"id": "x", "role": "eval"}),
         RejectedError, "train split is empty: 2 clips, 1 source are left; all are held out by role: eval"),
        ([{"source_id": "s1"}, {"source_id": "s2"}, {"dataset": "x", "num_frames": 1}], config({"id": "demo"},
         {"id": "x", "role": "eval"}), RejectedError, r"1 too_short\); fix them, or .* 0.44 would hold out 1 of 2"),
        ([{}, {}, {"dataset": "x", "num_frames": 1}, {"dataset": "x", "num_frames": 2}, {"dataset": "x", "width": 9}],
         config({"id": "demo", "role": "train"}, {"id": "x", "role": "eval"}), RejectedError,
         "2 clips, 2 sources are left; all 3 clips meant for it were rejected \\(2 too_short, 1 aspect\\)"),
        ([{}, {}], config({"id": "demo", "role": "train"}, {"id": "x", "role": "eval"}), RejectedError,
         r"download.datasets\[x\] with role: eval came here without a clip"),
        ([{"source_id": "s0", "num_frames": 1}, {"source_id": "s1"}], config(eval_fraction=0.25), RejectedError,
         r"eval split is empty: 1 clip, 1 source are left; all 1 clips meant for it were rejected \(1 too_short\)"),
        ([{"source_id": "s0"}, {"source_id": "s1", "num_frames": 1}], config(eval_fraction=0.25), RejectedError,
         r"train split is empty: 1 clip, 1 source are left; all 1 clips meant for it were rejected \(1 too_short\)"),
        ([{"source_id": "bunny"}], config(holdout=("buny",)), ConfigError, r"holdout: 'buny' names .* mean bunny\?$"),
        ([{"path": "a/Clip 1.mp4"}, {}], config(holdout=("clip 1.mp4", "A/clip 1.mov")), ConfigError,
         r"'clip 1.mp4' names no .* mean Clip 1.mp4\?\n.*'A/clip 1.mov' names no .* mean a/Clip 1.mp4\?$"),
        ([{"path": "a.mp4"}, {"path": "b.mp4"}], config(holdout=("*.mov",)), ConfigError, "; there are a.mp4, b.mp4$"),
        ([{"source_id": "a", "num_frames": 1}, {}], config(holdout=("a",)), ConfigError,
         r"'a' all its clips were rejected \(1 too_short\)"),
        ([{"path": "a"}, {}], config({"id": "demo", "role": "train"}, holdout=("a",)), ConfigError,
         "'a' names a, which is trained on: its data set has role: train"),
        (
            [{"source_id": "a", "dataset": "x"}, {"source_id": "a", "dataset": "y"}],
            config({"id": "x", "role": "train"}, {"id": "y", "role": "eval"}),
            ConfigError,
            "roles put 1 source into both splits: .* of x is trained on and .* of y held out, and they are linked by",
        ),
        ([{"path": "1.mp4", "digest": "d"}, {"path": "2.mp4", "digest": "d", "dataset": "y"}],
         config({"id": "demo", "role": "train"}, {"id": "y", "role": "eval"}), ConfigError,
         "roles put 1 .*: 1.mp4 of demo is trained on and 2.mp4 of y held out, and they are the same content, so"),
    ],
)  # fmt: skip
def test_an_impossible_split_is_an_error(clips: list, config: Config, error: type, message: str) -> None:
    table = probed(clips)
    with pytest.raises(error, match=f"(?s){message}"):
        check_splits(config, table, make_window_table(table, config))


def test_no_clip_left_is_not_reported_as_an_empty_split() -> None:
    table = probed([{"num_frames": 3}])
    made = make_window_table(table, config())
    check_splits(config(), table, made)  # raises nothing: check_rejects reports it
    assert made.counts.num_rejected == 1 and made.windows.num_rows == 0
