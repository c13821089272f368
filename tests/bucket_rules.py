"""Hypothesis strategies of bucket rules and clips, for the tests of the window table."""

from typing import Any

from hypothesis import strategies as st

from sana.config.bucket import BucketConfig
from sana.config.data import DatasetConfig
from sana.config.load import load_config
from sana.config.pipeline import Config

DEMO = load_config("configs/demo.yaml")
SMALL = ("17x96x160", "17x128x128", "17x160x96", "9x96x160", "9x128x128")


def config(*datasets: dict[str, Any], **bucket: Any) -> Config:
    """The demo's config with this bucket section, and data sets of these values (one called demo if none)."""
    download = DEMO.download.model_copy(
        update={"datasets": tuple(DatasetConfig(source=".", **values) for values in datasets or [{"id": "demo"}])}
    )
    return DEMO.model_copy(update={"bucket": BucketConfig(**bucket), "download": download})


clip = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["a", "b"]),
        "width": st.integers(40, 400),
        "height": st.integers(40, 400),
        "num_frames": st.integers(1, 60),
        "fps": st.sampled_from([8.0, 16.0, 29.97]),
        "source_id": st.sampled_from("uvwxyz"),
    }
)


@st.composite
def bucket_rules(draw: st.DrawFn) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "buckets": draw(st.lists(st.sampled_from(SMALL), min_size=1, unique=True)),
        "window": draw(st.sampled_from(["head", "middle", "random", "uniform", "stride"])),
        "crop": draw(st.booleans()),
        "crop_position": draw(st.sampled_from(["center", "random", "corner"])),
        "allow_upscale": draw(st.booleans()),
        "max_aspect_ratio": draw(st.sampled_from([1.0, 2.0, 4.0])),
        "target_fps": draw(st.sampled_from([None, 8.0, 24.0])),
        "min_frames": draw(st.sampled_from([1, 20])),
        "minimum_image_size": draw(st.sampled_from([None, 100.0])),
    }
    if rules["window"] not in ("head", "middle"):
        rules["windows_per_clip"] = draw(st.integers(2, 4))
    if draw(st.booleans()):
        rules |= {"max_frames": 40, "too_long": draw(st.sampled_from(["trim", "reject"]))}
    return rules


@st.composite
def configs(draw: st.DrawFn) -> Config:
    small = draw(st.sampled_from(["keep", "merge", "oversample"]))
    shared = draw(bucket_rules()) | {"small_buckets": small, "min_bucket_samples": 0 if small == "keep" else 3}
    own = draw(st.none() | bucket_rules())
    roles = draw(st.sampled_from([("split", "split"), ("train", "eval"), ("train", "split")]))
    return config(
        {"id": "a", "role": roles[0]}, {"id": "b", "role": roles[1], "bucket": own}, eval_fraction=0.4, **shared
    )
