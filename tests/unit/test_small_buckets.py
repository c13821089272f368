"""Buckets with few samples are kept, oversampled, or merged into larger ones."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.config.pipeline import Config
from sana.data.bucketing.window_table import make_window_table
from sana.facts import SmallBucket
from tests.bucket_rules import clip, config, configs
from tests.probed_clips import probed

pytestmark = pytest.mark.timeout(60)

WIDE, TALL, SQUARE = {"width": 832, "height": 480}, {"width": 480, "height": 832}, {"width": 624, "height": 624}


def windows_of(policy: str, minimum: int, clips: list, **bucket: Any) -> tuple[list, Mapping[str, SmallBucket]]:
    bucket = {"eval_fraction": 0, "allow_upscale": True, "max_aspect_ratio": 10, **bucket}
    table = make_window_table(probed(clips), config(small_buckets=policy, min_bucket_samples=minimum, **bucket))
    return table.windows.to_pylist(), table.facts.small_buckets


def test_a_small_bucket_stays() -> None:
    rows, facts = windows_of("keep", 0, [WIDE] * 3)
    assert {r["bucket"] for r in rows} == {"81x480x832"} and {r["draws_per_epoch"] for r in rows} == {1} and not facts


def test_a_small_bucket_is_oversampled_until_it_is_not_small() -> None:
    rows, facts = windows_of("oversample", 5, [WIDE] * 6 + [TALL] * 2, holdout=())
    assert {(r["bucket"], r["draws_per_epoch"]) for r in rows} == {("81x480x832", 1), ("81x832x480", 3)}
    assert facts == {"81x832x480": SmallBucket(2, draws_per_epoch=3, moved={}, stayed=None)}


def test_a_small_bucket_is_merged_into_the_nearest_large_one() -> None:
    nearly = {"width": 720, "height": 560}
    rows, facts = windows_of("merge", 4, [WIDE] * 4 + [SQUARE] * 5 + [nearly] * 2 + [TALL])
    assert [r["bucket"] for r in rows] == ["81x480x832"] * 4 + ["81x624x624"] * 8
    assert facts == {
        "81x560x720": SmallBucket(2, draws_per_epoch=None, moved={"81x624x624": 2}, stayed=0),
        "81x832x480": SmallBucket(1, draws_per_epoch=None, moved={"81x624x624": 1}, stayed=0),
    }
    box = rows[-1]  # cropped for the bucket it is in now
    assert (box["crop_width"], box["crop_height"]) == (480, 480)


def test_a_clip_is_not_merged_where_it_has_no_frames_or_pixels() -> None:
    long, short = {**WIDE, "num_frames": 81}, {**TALL, "num_frames": 17}
    rows, facts = windows_of("merge", 3, [long] * 3 + [short], buckets=["81x480x832", "17x832x480"])
    assert rows[-1]["bucket"] == "17x832x480"
    assert facts["17x832x480"] == SmallBucket(1, draws_per_epoch=None, moved={}, stayed=1)
    rows, _ = windows_of("merge", 3, [WIDE] * 3 + [TALL], buckets=["81x480x832", "81x832x480"], allow_upscale=False)
    assert rows[-1]["bucket"] == "81x832x480"
    rows, _ = windows_of("merge", 9, [WIDE] * 3 + [TALL])  # nothing is large: no clip moves, and nothing fails
    assert {r["bucket"] for r in rows} == {"81x480x832", "81x832x480"}


@given(config=configs(), clips=st.lists(clip, max_size=30))
def test_merging_only_makes_buckets_larger(config: Config, clips: list) -> None:
    table = probed(clips)
    update = {"small_buckets": "keep", "min_bucket_samples": 0}
    plain = config.model_copy(update={"bucket": config.bucket.model_copy(update=update)})
    before = make_window_table(table, plain).facts.buckets
    after = make_window_table(table, config)
    for name, counted in after.facts.buckets.items():
        small = before[name].train < 3 and config.bucket.small_buckets != "keep"
        assert (counted.train <= before[name].train) if small else (counted.train >= before[name].train)
    if config.bucket.small_buckets == "oversample":
        for name, counted in after.facts.buckets.items():
            draws_per_epoch = {
                r["draws_per_epoch"] for r in after.windows.to_pylist() if r["bucket"] == name and r["split"] == "train"
            }
            assert not counted.train or counted.train * draws_per_epoch.pop() >= 3
            assert not draws_per_epoch
    assert {r["draws_per_epoch"] for r in after.windows.to_pylist() if r["split"] == "eval"} <= {1}
