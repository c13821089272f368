"""Buckets: the shapes the model takes, chosen by aspect ratio whatever the order, and the crops for them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.bucket import OFFICIAL_480P, Bucket, sizes_for
from sana.config.bucket import BucketConfig, BucketRules
from sana.config.load import load_config
from sana.data.bucketing.assignment import ClipShapes, crop_boxes, nearest_buckets
from sana.data.bucketing.window_table import make_window_table
from sana.data.schemas import Reason
from tests.probed_clips import probed

pytestmark = pytest.mark.timeout(60)

CONFIG = load_config("configs/demo.yaml")

OFFICIAL = [Bucket(81, height, width) for height, width in OFFICIAL_480P]
sides = st.integers(1, 60).map(lambda k: 16 * k)
buckets = st.builds(Bucket, st.integers(0, 30).map(lambda k: 4 * k + 1), sides, sides)


@pytest.mark.parametrize(
    ("name", "shape", "tokens"), [("81x480x832", (16, 21, 60, 104), 32760), ("17x96x160", (16, 5, 12, 20), 300)]
)
def test_latent_shape_is_that_of_the_wan_vae(name: str, shape: tuple, tokens: int) -> None:
    assert Bucket.parse(name).latent_shape == shape
    assert Bucket.parse(name).num_tokens == tokens


@pytest.mark.parametrize(
    "name", ["80x480x832", "81x481x832", "81x480", "81x480x832x1", "0x16x16", "1x8x16", "axbxc", ""]
)
def test_a_shape_the_model_does_not_take_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        Bucket.parse(name)


@given(bucket=buckets)
def test_a_name_reads_back(bucket: Bucket) -> None:
    assert Bucket.parse(str(bucket)) == bucket


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_latent_bytes_are_those_of_all_its_values(dtype: str, size: int) -> None:
    assert Bucket.parse("81x480x832").latent_bytes(dtype) == 16 * 21 * 60 * 104 * size


@pytest.mark.parametrize(("resolution", "unit"), [(480, "pixel"), (632, "pixel_area"), (0.4, "area")])
def test_sizes_of_a_resolution_have_that_resolution(resolution: float, unit: str) -> None:
    sizes = sizes_for(resolution, unit)
    assert len(sizes) == len(OFFICIAL_480P)  # one for each aspect ratio of the official table
    for height, width in sizes:
        assert height % 16 == width % 16 == 0
        got = {"pixel": min(height, width), "pixel_area": math.sqrt(height * width), "area": height * width / 1e6}[unit]
        assert got == pytest.approx(resolution, rel=0.05)


# ---- which bucket a clip gets


def choose_bucket(width: int, height: int, frames: int, table: list[Bucket], *, allow: bool = True) -> Bucket | None:
    clip = ClipShapes(*(np.array([value], np.int64) for value in (width, height, frames)))
    index = int(nearest_buckets(clip, table, allow_upscale=allow)[0])
    return None if index < 0 else table[index]


@given(
    width=st.integers(16, 4000),
    height=st.integers(16, 4000),
    frames=st.integers(1, 200),
    table=st.lists(buckets, min_size=1, max_size=8),
    allow=st.booleans(),
    seed=st.randoms(),
)
def test_the_choice_is_the_nearest_bucket_whatever_the_order(width, height, frames, table, allow, seed) -> None:
    chosen = choose_bucket(width, height, frames, table, allow=allow)
    shuffled = table[:]
    seed.shuffle(shuffled)
    assert choose_bucket(width, height, frames, shuffled, allow=allow) == chosen
    fitting = [b for b in table if b.num_frames <= frames]
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        best = min(abs(b.log_aspect - math.log(width / height)) for b in fitting)
        assert abs(chosen.log_aspect - math.log(width / height)) <= best + 1e-8
        same = [b for b in fitting if abs(b.log_aspect - chosen.log_aspect) < 1e-10]
        if not allow:
            enough = [b for b in same if b.width <= width and b.height <= height]
            assert chosen in enough or not enough
            same = enough or same
        assert chosen.num_frames == max(b.num_frames for b in same)


@given(
    sizes=st.lists(st.tuples(st.integers(16, 90), st.integers(16, 90), st.integers(1, 40)), min_size=1, max_size=30),
    table=st.lists(buckets, min_size=1, max_size=5),
)
def test_many_clips_get_the_buckets_that_each_gets_alone(sizes, table) -> None:
    columns = ClipShapes(*np.array(sizes, np.int64).T)
    together = nearest_buckets(columns, table, allow_upscale=False)
    assert [None if i < 0 else table[i] for i in together] == [
        choose_bucket(*size, table, allow=False) for size in sizes
    ]


@pytest.mark.parametrize("bucket", OFFICIAL, ids=str)
def test_every_official_bucket_gets_its_own_shape(bucket: Bucket) -> None:
    assert choose_bucket(bucket.width, bucket.height, 81, OFFICIAL) == bucket


# ---- which clips are rejected, and the crop of the others


@pytest.mark.parametrize(
    ("rules", "width", "height", "frames", "rejected"),
    [
        ({}, 832, 480, 81, None),
        ({"max_aspect_ratio": 2}, 1921, 960, 81, "longer side may be 2 times"),
        ({"max_aspect_ratio": 2}, 960, 1921, 81, "longer side may be 2 times"),
        ({"max_aspect_ratio": 2}, 1920, 960, 81, None),
        ({"minimum_image_size": 720, "resolution_type": "pixel"}, 2800, 719, 81, "720 (pixel)"),
        ({"minimum_image_size": 720, "resolution_type": "pixel"}, 1280, 720, 81, None),
        ({"minimum_image_size": 900}, 900, 899, 81, "900 (pixel_area)"),
        ({"minimum_image_size": 900}, 1000, 810, 81, None),
        ({"minimum_image_size": 1, "resolution_type": "area"}, 1000, 999, 81, "1 (area)"),
        ({"minimum_image_size": 1, "resolution_type": "area"}, 1000, 1000, 81, None),
        ({"min_frames": 100}, 832, 480, 99, "min_frames is 100"),
        ({"max_frames": 100, "too_long": "reject"}, 832, 480, 101, "max_frames is 100"),
        ({"max_frames": 100, "too_long": "reject"}, 832, 480, 100, None),
        ({"max_frames": 100}, 832, 480, 101, None),
        ({}, 832, 480, 80, "shortest bucket needs 81"),
        ({}, 832, 479, 81, "upscaled for 81x480x832"),
        ({"allow_upscale": True}, 832, 479, 81, None),
    ],
)
def test_a_rejection_has_its_reason(rules: dict, width: int, height: int, frames: int, rejected: str | None) -> None:
    clip = probed([{"width": width, "height": height, "num_frames": frames}])
    rejects = make_window_table(clip, CONFIG.model_copy(update={"bucket": BucketConfig(**rules)})).rejects.to_pylist()
    if rejected is None:
        assert not rejects
    else:
        assert len(rejects) == 1 and rejected in rejects[0]["detail"]
        assert rejects[0]["reason"] in set(Reason) and rejects[0]["stage"] == "bucket"


@given(
    width=st.integers(16, 4000),
    height=st.integers(16, 4000),
    position=st.sampled_from(["center", "random", "corner"]),
    crop=st.booleans(),
    limits=st.none() | st.tuples(st.integers(300, 3000), st.integers(100, 300)),
    unit=st.sampled_from(["pixel", "pixel_area"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_box_lies_in_the_frame_and_has_the_buckets_aspect(width, height, position, crop, limits, unit, seed) -> None:
    more = {"crop": True, "resolution_type": unit} if limits else {"crop": crop}
    if limits:
        more |= {"maximum_image_size": limits[0], "target_downsample_size": limits[1]}
    rules = BucketRules(crop_position=position, allow_upscale=True, **more)
    clip = ClipShapes(*(np.array([value], np.int64) for value in (width, height, 81)))
    code = nearest_buckets(clip, rules.shapes, allow_upscale=True)
    box = crop_boxes(rules, clip, code, rules.shapes, np.array([seed], np.uint64))
    left, top, box_width, box_height = (float(edge[0]) for edge in box)
    bucket = rules.shapes[code[0]]
    assert left >= 0 and top >= 0
    assert left + box_width <= width + 1e-9 and top + box_height <= height + 1e-9
    assert box_width / box_height == pytest.approx(bucket.width / bucket.height, rel=1e-12)
    touches = box_width == pytest.approx(width) or box_height == pytest.approx(height)
    if not rules.crop:
        assert touches  # nothing is cropped that need not be
    elif not limits and not touches:
        assert (box_width, box_height) == (bucket.width, bucket.height)  # a crop of the frame as it is
    if position == "center":
        assert left == pytest.approx((width - box_width) / 2) and top == pytest.approx((height - box_height) / 2)
    if position == "corner":
        assert (left, top) == (0, 0)


def test_a_larger_frame_is_scaled_down_before_the_crop() -> None:
    rules = BucketRules(crop=True, maximum_image_size=1080, target_downsample_size=540, resolution_type="pixel")
    clip = ClipShapes(np.array([1920, 3840]), np.array([1080, 2160]), np.array([81, 81]))
    code = nearest_buckets(clip, rules.shapes, allow_upscale=False)
    _, _, width, height = crop_boxes(rules, clip, code, rules.shapes, np.zeros(2, np.uint64))
    assert (width[0], height[0]) == (832, 480)  # 1080 is not above the maximum
    assert (width[1], height[1]) == (4 * 832, 4 * 480)  # 2160 is scaled to 540 first


def test_random_crops_are_spread_and_each_clip_has_its_own() -> None:
    clips = ClipShapes(*(np.full(500, value) for value in (3000, 2000, 81)))
    rules = BucketRules(crop=True, crop_position="random")
    code = nearest_buckets(clips, rules.shapes, allow_upscale=False)
    seeds = np.arange(500, dtype=np.uint64)
    left, top, width, height = crop_boxes(rules, clips, code, rules.shapes, seeds)
    for at, room in ((left, 3000 - width), (top, 2000 - height)):
        assert len(np.unique(at)) == 500 and 0.4 < (at / room).mean() < 0.6 and (at / room).std() > 0.25
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.15
