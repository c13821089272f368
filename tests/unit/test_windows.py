"""Windows: which frames of a clip become samples; they lie inside it, and never change."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.config.bucket import BucketRules
from sana.data.bucketing.windows import (
    available_frames,
    choose_windows,
    covered_frames,
    draw_bits,
    num_windows,
    seeds_of,
)

pytestmark = pytest.mark.timeout(60)

SEEDS = [8349403052845412257, 16790269735508659873]
DRAW_0 = [4806870570673911284, 8031871454306190519]
DRAW_CROP = [8195464144618676058, 17645719915617255727]
MODES = ("head", "middle", "random", "uniform", "stride")
clips = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=12)  # (room, k of 4k + 1)
seeds = st.integers(0, 2**63)


def rules(mode: str, count: int = 1, stride: int | None = None) -> BucketRules:
    many = {} if mode in ("head", "middle") else {"windows_per_clip": max(count, 2 if mode == "stride" else 1)}
    return BucketRules(window=mode, **many, **({"window_stride": stride} if mode == "stride" else {}))


def starts(mode: str, available: int, length: int, *, count: int = 1, stride: int | None = None, seed: int = 0) -> list:
    columns = np.array([available]), np.array([length]), np.array([seed], np.uint64)
    return choose_windows(rules(mode, count, stride), *columns)[1].tolist()


@given(
    clips=clips, mode=st.sampled_from(MODES), count=st.integers(1, 9), stride=st.none() | st.integers(1, 30), seed=seeds
)
def test_windows_lie_in_their_clip_and_have_distinct_starts(clips, mode, count, stride, seed) -> None:
    length = np.array([4 * k + 1 for _, k in clips])
    available = length + [room for room, _ in clips]
    chosen = rules(mode, count, stride)
    seeds = np.arange(len(clips), dtype=np.uint64) + np.uint64(seed)
    clip, start = choose_windows(chosen, available, length, seeds)
    assert (start >= 0).all() and (start + length[clip] <= available[clip]).all()
    pairs = list(zip(clip.tolist(), start.tolist(), strict=True))
    assert pairs == sorted(set(pairs))  # by clip, ascending, none twice
    numbers = np.bincount(clip, minlength=len(clips))
    assert (numbers == num_windows(chosen, available, length)).all() and (numbers >= 1).all()
    if mode in ("random", "uniform"):  # as many as are asked for, where there is room
        assert (numbers == np.minimum(count, available - length + 1)).all()
    covered = covered_frames(clip, start, length[clip], len(clips))
    for i in range(len(clips)):
        frames = {f for c, s in pairs if c == i for f in range(s, s + length[i])}
        assert covered[i] == len(frames) <= available[i]


@given(clips=clips, mode=st.sampled_from(MODES), count=st.integers(1, 5), seed=seeds)
def test_a_clip_gets_the_windows_that_it_gets_alone(clips, mode, count, seed) -> None:
    length = np.array([4 * k + 1 for _, k in clips])
    available = length + [room for room, _ in clips]
    seeds = np.arange(len(clips), dtype=np.uint64) + np.uint64(seed)
    clip, start = choose_windows(rules(mode, count), available, length, seeds)
    for i in range(len(clips)):
        assert start[clip == i].tolist() == starts(mode, available[i], length[i], count=count, seed=int(seeds[i]))


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("head", {}, [0]),
        ("middle", {}, [41]),
        ("uniform", {}, [41]),
        ("uniform", {"count": 2}, [0, 83]),
        ("uniform", {"count": 4}, [0, 28, 55, 83]),
        ("stride", {"count": 9}, [0, 17, 34, 51, 68]),
        ("stride", {"count": 3}, [0, 17, 34]),
        ("stride", {"count": 9, "stride": 40}, [0, 40, 80]),
    ],
)
def test_the_starts_in_a_clip_of_100_frames(mode: str, options: dict, expected: list[int]) -> None:
    assert starts(mode, 100, 17, **options) == expected


@given(room=st.integers(0, 40), few=st.integers(1, 6), more=st.integers(0, 6), seed=seeds)
def test_more_random_windows_keep_the_earlier_ones(room, few, more, seed) -> None:
    drawn = starts("random", 17 + room, 17, count=few, seed=seed)
    assert set(drawn) <= set(starts("random", 17 + room, 17, count=few + more, seed=seed))


def test_random_starts_are_spread_evenly() -> None:
    seeds = np.arange(9000, dtype=np.uint64)
    for count in (1, 3):
        _, start = choose_windows(rules("random", count), np.full(9000, 26), np.full(9000, 17), seeds)
        seen = np.bincount(start, minlength=10)
        assert len(seen) == 10 and np.abs(seen / (900 * count) - 1).max() < 0.15


def test_random_draws_never_change() -> None:
    """Golden: another number here would be another window for every clip of every user."""
    seeds = seeds_of(pa.array(["00000000000000000000", "0123456789abcdef0123"]))
    assert seeds.tolist() == SEEDS
    assert draw_bits(seeds, 0).tolist() == DRAW_0
    assert draw_bits(seeds, 2**32).tolist() == DRAW_CROP
    # SplitMix64's published first outputs for the seed 0
    assert [int(draw_bits(np.zeros(1, np.uint64), k)[0]) for k in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


# ---- how many frames a clip has at a target rate


@given(
    num=st.integers(1, 400), rate=st.sampled_from([8, 10, 16, 24, 25, 30, 50, 60, 120]), off=st.floats(-0.0015, 0.0015)
)
def test_at_its_own_rate_a_clip_has_its_own_frames(num, rate, off) -> None:
    """Even when a container has rounded the duration to milliseconds."""
    assert available_frames(np.array([num]), np.array([num / rate + off]), float(rate)).tolist() == [num]


@given(num=st.integers(1, 400), own=st.floats(5, 120), target=st.floats(1, 120))
def test_a_time_counts_while_the_clip_lasts(num, own, target) -> None:
    count = int(available_frames(np.array([num]), np.array([num / own]), target)[0])
    assert count == 1 or (count - 1) / target < num / own  # the last time is in the clip
    assert math.isclose(count / target, num / own, abs_tol=1 / target + 0.003)  # and there is hardly room for another


def test_without_a_target_rate_frames_are_those_of_the_file() -> None:
    assert available_frames(np.array([7, 81]), np.array([99.0, 0.1]), None).tolist() == [7, 81]
