"""Buckets: the shapes the model takes, chosen by aspect ratio whatever the order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.bucket import OFFICIAL_480P, Bucket, nearest, upscales

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
def test_a_shape_the_model_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        Bucket.parse(name)


@given(bucket=buckets)
def test_a_name_reads_back(bucket: Bucket) -> None:
    assert Bucket.parse(str(bucket)) == bucket


@given(
    width=st.integers(16, 4000),
    height=st.integers(16, 4000),
    frames=st.integers(1, 200),
    table=st.lists(buckets, min_size=1, max_size=8),
    allow=st.booleans(),
    seed=st.randoms(),
)
def test_the_choice_does_not_depend_on_order_and_is_the_nearest(width, height, frames, table, allow, seed) -> None:
    chosen = nearest(width, height, frames, table, allow_upscale=allow)
    shuffled = table[:]
    seed.shuffle(shuffled)
    assert nearest(width, height, frames, shuffled, allow_upscale=allow) == chosen
    fitting = [b for b in table if b.num_frames <= frames]
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        best = min(abs(b.log_aspect - math.log(width / height)) for b in fitting)
        assert abs(chosen.log_aspect - math.log(width / height)) <= best + 1e-8
        if not allow and upscales(width, height, chosen):
            same = [b for b in fitting if abs(b.log_aspect - chosen.log_aspect) < 1e-10]
            assert all(upscales(width, height, b) for b in same)


@pytest.mark.parametrize("bucket", OFFICIAL, ids=str)
def test_every_official_bucket_gets_its_own_shape(bucket: Bucket) -> None:
    assert nearest(bucket.width, bucket.height, 81, OFFICIAL) == bucket
