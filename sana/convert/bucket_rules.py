"""Bucket rules of a data set: its resolution, `video` block, limits and crop."""

from collections.abc import Sequence
from typing import Any

from sana.bucket import PATCH, SPATIAL_STRIDE
from sana.config.bucket import BucketRules
from sana.convert.conversion import Conversion, Keys, account
from sana.errors import ConfigError

RULE_KEYS = (
    "resolution", "resolution_type", "minimum_image_size", "maximum_image_size", "target_downsample_size", "crop",
    "crop_style", "crop_aspect", "minimum_aspect_ratio", "maximum_aspect_ratio", "video",
)  # fmt: skip
VIDEO_KEYS = ("num_frames", "min_frames", "max_frames", "frame_interval", "bucket_strategy")
MODEL_FRAMES = 81
Rules = dict[str, tuple[Any, str, tuple[str, ...]]]  # setting of BucketRules: value, why, keys it comes from


def rules_of(conversion: Conversion, keys: Keys, main: Keys) -> Rules:
    """Read the bucket rules of one of their data sets; those of `main`, config.json, hold where it has none.

    Raises:
        ConfigError: a value that has no meaning; names its entry.
    """
    rules: Rules = {}
    unit = keys.text("resolution_type") or main.text("resolution_type", "pixel_area")
    if unit not in ("pixel_area", "area", "pixel"):
        raise ConfigError(f"{keys.where}: resolution_type {unit!r} is not pixel_area, area or pixel")
    _sizes(keys, rules, unit, keys.number("resolution", main.number("resolution", 1024)))
    _frames(conversion, keys, rules)
    _limits(conversion, keys, rules, unit)
    _crop(conversion, keys, rules)
    return rules


def _sizes(keys: Keys, rules: Rules, unit: str, resolution: float) -> None:
    their = tuple(keys.present("resolution", "resolution_type")) or ("resolution",)
    side = 1000 * resolution**0.5 if unit == "area" else resolution  # of a square with that area, pixels
    if (unit != "area" and side == 480) or 600 <= side <= 660:
        why = "the eleven sizes the model was trained at; "
        why += f"SimpleTuner made 704x384 of {resolution:g} {unit} at 16:9" if side == 480 else "832x480 at 16:9"
        rules["table"] = "official_480p", why, their
    elif (unit != "area" and side == 720) or 900 <= side <= 1000:
        rules["table"] = "official_720p", "1280x704 at 16:9; the 480p model has seen smaller ones only", their
    else:
        rules["table"] = "resolution", "sizes made from the next two, in multiples of 16", their
        rules["resolution"] = resolution, "SimpleTuner rounded the side to a multiple of 64", their
    rules["resolution_type"] = unit, "unit of the sizes here", their


def _frames(conversion: Conversion, keys: Keys, rules: Rules) -> None:
    video = keys.section("video")
    video.take("is_i2v")  # datasets.py has read it
    if keys.text("dataset_type", "image") == "image":
        rules["strategy"] = "aspect_ratio", "every sample has num_frames", ()
        rules["num_frames"] = 1, "pictures are clips of one frame", tuple(keys.present("dataset_type"))
        rules["window"] = "head", "of a video among them, its first frame", ()
        account(conversion, video, (), rest="of videos")
        return
    asked = video.integer("num_frames", MODEL_FRAMES)
    frames = max(1, asked - (asked - 1) % 4)
    why = "4k + 1; the first ones of a clip" if frames == asked else f"{asked} is not 4k + 1"
    if not video.has("num_frames"):
        why = "what the model was trained at; SimpleTuner took 73 when nothing was said"
    named = video.present("num_frames")
    strategy = video.text("bucket_strategy", "aspect_ratio")
    if strategy not in ("aspect_ratio", "resolution_frames"):
        raise ConfigError(f"{keys.where}: bucket_strategy {strategy!r} is neither aspect_ratio nor resolution_frames")
    theirs = tuple(video.present("bucket_strategy"))
    rules["strategy"] = strategy, "aspect_ratio: every sample has num_frames", theirs
    rules["num_frames"] = frames, why, tuple(named)
    if strategy == "resolution_frames" and video.has("frame_interval"):
        interval = max(4, round(video.integer("frame_interval", 16) / 4) * 4)
        rules["frame_interval"] = interval, "lengths are 1 + k x this", (video.name("frame_interval"),)
    elif video.has("frame_interval"):
        conversion.leave_out(
            video.name("frame_interval"), video.take("frame_interval"), "of bucket_strategy: resolution_frames"
        )
    rules["window"] = "head", "SimpleTuner takes the first frames, at the file's own rate", ()
    least = video.integer("min_frames", frames)
    named = video.present("min_frames")
    rules["min_frames"] = max(1, min(least, least - (least - 1) % 4)), "shorter clips are rejected", tuple(named)
    if video.has("max_frames"):
        most = max(video.integer("max_frames", frames), frames)
        rules["max_frames"] = most, "longer clips are rejected, as there", (video.name("max_frames"),)
        rules["too_long"] = "reject", "trim would take their first frames", ()
    account(conversion, video, VIDEO_KEYS)


def _limits(conversion: Conversion, keys: Keys, rules: Rules, unit: str) -> None:
    least = keys.number("minimum_image_size", 0.0)
    if least > 0:
        rules["minimum_image_size"] = (
            least,
            f"smaller clips are rejected, in {unit}",
            (keys.name("minimum_image_size"),),
        )
    elif keys.has("minimum_image_size"):
        conversion.leave_out(
            keys.name("minimum_image_size"), keys.take("minimum_image_size"), "0: there is no such limit"
        )
    rules["allow_upscale"] = True, "as there; false is stricter: it rejects all that is smaller than its bucket", ()
    low, high = keys.number("minimum_aspect_ratio", 0.0), keys.number("maximum_aspect_ratio", 0.0)
    named = tuple(keys.present("minimum_aspect_ratio", "maximum_aspect_ratio"))
    longest = max(high, 1 / low if low > 0 else 0.0)
    if longest >= 1:
        rules["max_aspect_ratio"] = longest, "longer over shorter side", named
    else:
        for key in ("minimum_aspect_ratio", "maximum_aspect_ratio"):
            if keys.has(key):
                conversion.leave_out(keys.name(key), keys.take(key), "sets no limit on longer over shorter side")


def _crop(conversion: Conversion, keys: Keys, rules: Rules) -> None:
    crop = keys.flag("crop")
    sizes = ("maximum_image_size", "target_downsample_size")
    cuts = crop and all(keys.has(key) for key in sizes)
    named = tuple(keys.present("crop"))
    why = "a frame is scaled to cover its bucket, and what is over is trimmed"
    if crop:
        why = "large clips are scaled down first, then a piece is cut out" if cuts else f"crop: true does so too; {why}"
    rules["crop"] = cuts, why, named
    for key in sizes:
        if cuts:
            rules[key] = keys.number(key, 0.0), "in the unit of resolution_type", (keys.name(key),)
        elif keys.has(key):
            reason = "of no effect there with crop: false" if not crop else f"needs {' and '.join(sizes)}"
            conversion.leave_out(keys.name(key), keys.take(key), f"{reason}; every clip is scaled to its bucket")
    style = keys.text("crop_style", "random")
    position = style if crop and style in ("center", "random", "corner") else "center"
    said = tuple(keys.present("crop_style"))
    why = "which part is kept" if position == style else f"there: {style}, even when nothing is to be cropped"
    if style == "face":
        why = "no face is looked for here"
    rules["crop_position"] = position, why, said
    if crop and keys.text("crop_aspect", "square") == "square":
        _only_square(keys, rules)
    elif keys.has("crop_aspect"):
        conversion.leave_out(
            keys.name("crop_aspect"), keys.take("crop_aspect"), "a clip goes to the shape nearest to its own"
        )


def _only_square(keys: Keys, rules: Rules) -> None:
    """SimpleTuner's crop: true makes all samples square unless crop_aspect says otherwise."""
    multiple = SPATIAL_STRIDE * PATCH
    side = {"official_480p": 624, "official_720p": 960}.get(rules["table"][0])
    if side is None:
        resolution, unit = rules["resolution"][0], rules["resolution_type"][0]
        side = max(multiple, round((1000 * resolution**0.5 if unit == "area" else resolution) / multiple) * multiple)
    shape = f"{rules['num_frames'][0]}x{side}x{side}"
    theirs = keys.present("crop_aspect")
    for name in ("table", "strategy", "num_frames", "frame_interval", "resolution"):
        theirs += rules.pop(name, (None, "", ()))[2]
    why = "crop: true with crop_aspect: square; remove this line for the model's own table"
    square: Rules = {"buckets": ([shape], why, tuple(dict.fromkeys(theirs)))}
    rest = dict(rules)
    rules.clear()
    rules.update(square | rest)


def write_rules(conversion: Conversion, rules: Sequence[Rules]) -> None:
    """The first data set's rules are those of all; one that differs has its own."""
    values = [{name: value for name, (value, _, _) in rule.items()} for rule in rules]
    for number, rule in enumerate(rules):
        own = values[number] != values[0]
        section = f"download.datasets.{number}.bucket" if own else "bucket"
        for name, (value, why, theirs) in rule.items():
            assert name in BucketRules.model_fields
            if number == 0 or own:
                conversion.set(f"{section}.{name}", value, why, *theirs)
            elif theirs:
                conversion.merge(f"{section}.{name}", *theirs)
