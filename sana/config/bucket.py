"""Config of the bucket stage: shapes, windows of frames, crops, and what is held out."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import OFFICIAL_480P, OFFICIAL_720P, Bucket, sizes_for
from sana.config.section import MAX_SEED, Neutral, Section


class BucketRules(Section):
    """How a clip becomes samples; a data set may have rules of its own."""

    buckets: tuple[str, ...] = Field(
        (),
        description="shapes of samples, frames x height x width; unset: by `table` and `num_frames`. "
        "A clip goes to the nearest in log aspect ratio, then to the longest that it has enough frames for",
    )
    table: Literal["official_480p", "official_720p", "resolution"] = Field(
        "official_480p", description="heights and widths: the model's own tables, or made from `resolution`"
    )
    strategy: Literal["aspect_ratio", "resolution_frames"] = Field(
        "aspect_ratio",
        description="aspect_ratio: every sample has num_frames; resolution_frames: as many as the clip has, from "
        "min_frames to num_frames in steps of frame_interval",
    )
    num_frames: int = Field(81, ge=1, le=10_001, description="frames of a sample, 4k + 1; resolution_frames: the most")
    frame_interval: int = Field(
        16, ge=4, le=10_000, multiple_of=4, description="resolution_frames: sample lengths are 1 + k x frame_interval"
    )
    resolution: float | None = Field(
        None, gt=0.0, le=1e5, description="table: resolution; in the unit of resolution_type, for example 480"
    )
    resolution_type: Literal["pixel_area", "area", "pixel"] = Field(
        "pixel_area",
        description="unit of the sizes here: pixel_area, the side of a square of that area; area, megapixels; pixel, "
        "the shorter side",
    )
    minimum_image_size: float | None = Field(
        None,
        gt=0.0,
        le=1e5,
        description="smaller clips are rejected, in the unit of resolution_type; unset: no such limit",
    )
    maximum_image_size: float | None = Field(
        None, gt=0.0, le=1e5, description="crop: true only: larger clips are first scaled to target_downsample_size"
    )
    target_downsample_size: float | None = Field(
        None, gt=0.0, le=1e5, description="crop: true only: what larger clips are scaled to before the crop"
    )
    crop: bool = Field(
        False,
        description="false: a frame is scaled to cover the bucket, and only the excess is cropped; true: a region of "
        "the bucket's size is cropped from the unscaled frame",
    )
    crop_position: Literal["center", "random", "corner"] = Field(
        "center", description="which part is kept: the centre, one drawn by clip_id, or the top left"
    )
    allow_upscale: bool = Field(False, description="take clips smaller than their bucket instead of rejecting them")
    max_aspect_ratio: float = Field(
        4.0,
        ge=1.0,
        le=1000.0,
        description="longer over shorter side; above it a clip is rejected: most of it would be cropped",
    )
    window: Literal["head", "middle", "random", "uniform", "stride"] = Field(
        "head",
        description="which frames of a clip are used: the first; the middle; starts drawn by clip_id, the same in "
        "every run; starts spread evenly over the clip; starts every window_stride frames",
    )
    windows_per_clip: int = Field(
        1,
        ge=1,
        le=1000,
        description="samples of a clip, at most, each with another start; fewer where the clip is too short for more. "
        "head and middle give one",
    )
    window_stride: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="window: stride; frames from one start to the next; unset: the sample's length",
    )
    target_fps: float | None = Field(
        None,
        gt=0.0,
        le=240.0,
        description="frames are chosen by time at this rate, each the one a player would show then, "
        "and all counts of frames are at this rate; unset: every frame of the file",
    )
    min_frames: int = Field(
        1, ge=1, le=10**9, description="clips with fewer frames, at target_fps where set, are rejected"
    )
    max_frames: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="of a longer clip only the first so many frames are used, or it is rejected, by too_long; unset: "
        "no limit",
    )
    too_long: Literal["reject", "trim"] = Field("trim", description="what is done with a clip of more than max_frames")
    # neutral: stage bucket's version 4 stands for both, so configs that do not name them keep one address
    hdr: Annotated[Literal["tonemap", "reject", "as_is"], Neutral("tonemap")] = Field(
        "tonemap",
        description="clips of PQ or HLG: tone-mapped to SDR BT.709, rejected, or used as if they were SDR, washed out",
    )
    interlaced: Annotated[Literal["deinterlace", "reject", "as_is"], Neutral("deinterlace")] = Field(
        "deinterlace",
        description="clips whose frames are two fields: deinterlaced by bwdif, rejected, or used with their combs",
    )

    @field_validator("buckets")
    @classmethod
    def _parse_buckets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # sorted: the order of the list has no effect, so it must not change the fingerprint
        return tuple(str(bucket) for bucket in sorted({Bucket.parse(name) for name in names}))

    @field_validator("num_frames")
    @classmethod
    def _num_frames_is_4k_plus_1(cls, num_frames: int) -> int:
        if (num_frames - 1) % 4:
            raise ValueError(f"{num_frames} is not 4k + 1; use {num_frames - (num_frames - 1) % 4}")
        return num_frames

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        def check_unused(name: str, when: str) -> None:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect {when}; remove it")

        if self.buckets:
            for name in ("table", "strategy", "num_frames", "frame_interval", "resolution"):
                check_unused(name, "with a list of buckets, which names all shapes")
        elif (self.table == "resolution") != (self.resolution is not None):
            raise ValueError("table: resolution and the key resolution go together; set both or neither")
        if self.strategy == "aspect_ratio":
            check_unused("frame_interval", "with strategy: aspect_ratio")
        if (self.maximum_image_size is None) != (self.target_downsample_size is None):
            raise ValueError("maximum_image_size and target_downsample_size go together; set both or neither")
        if self.maximum_image_size is not None and not self.crop:
            raise ValueError(
                "maximum_image_size has no effect with crop: false, where every clip is scaled to its bucket anyway; "
                "remove it and target_downsample_size, or set crop: true"
            )
        if self.maximum_image_size is not None and (self.target_downsample_size or 0) > self.maximum_image_size:
            raise ValueError(
                f"target_downsample_size {self.target_downsample_size:g} is above maximum_image_size "
                f"{self.maximum_image_size:g}: clips would be scaled up; lower it"
            )
        if self.window in ("head", "middle"):
            check_unused(
                "windows_per_clip", f"with window: {self.window}, which gives one; use random, uniform or stride"
            )
        if self.window == "stride" and self.windows_per_clip == 1:
            raise ValueError("window: stride with windows_per_clip: 1 is window: head; say how many it may give")
        if self.window != "stride":
            check_unused("window_stride", f"with window: {self.window}")
        if self.max_frames is None:
            check_unused("too_long", "without max_frames")
        shortest = min(shape.num_frames for shape in self.shapes)
        if self.max_frames is not None and self.max_frames < max(shortest, self.min_frames):
            raise ValueError(
                f"max_frames {self.max_frames} leaves no clip: {max(shortest, self.min_frames)} frames are needed"
            )
        return self

    @property
    def shapes(self) -> tuple[Bucket, ...]:
        """All buckets, sorted."""
        if self.buckets:
            return tuple(Bucket.parse(name) for name in self.buckets)
        if self.table == "resolution":
            assert self.resolution is not None
            sizes = sizes_for(self.resolution, self.resolution_type)
        else:
            sizes = OFFICIAL_480P if self.table == "official_480p" else OFFICIAL_720P
        lengths = [self.num_frames]
        if self.strategy == "resolution_frames":
            lengths += [n for n in range(1, self.num_frames, self.frame_interval) if n >= self.min_frames]
        return tuple(sorted(Bucket(length, *size) for length in set(lengths) for size in sizes))


class BucketConfig(BucketRules):
    """The rules of data sets without rules of their own, the split, and what is done about small buckets."""

    small_buckets: Literal["keep", "merge", "oversample"] = Field(
        "keep",
        description="a bucket with fewer than min_bucket_samples train samples: stays; its clips go to the nearest "
        "bucket that has as many and that they have the frames and pixels for, or stay; or its samples are repeated "
        "within an epoch. In every case a last batch is filled up by repeats",
    )
    min_bucket_samples: int = Field(0, ge=0, le=10**9, description="what counts as a small bucket; 0: none does")
    eval_fraction: float = Field(
        0.05,
        ge=0.0,
        lt=1.0,
        description="part of the sources held out for the eval loss, chosen by hash; above 0 at least one is held out "
        "and one trained on, where there are two. Sources that share a content are one",
    )
    holdout: Annotated[tuple[str, ...], Neutral(())] = Field(
        (),
        description="what is held out by name: file names, paths in a data set, source_ids, or globs of those (`*` "
        "and `?` stand for anything but /, `**` for anything)",
    )
    split_seed: int = Field(0, ge=0, le=MAX_SEED, description="salt of the hash that chooses held-out sources")

    @model_validator(mode="after")
    def _small_buckets_consistent(self) -> Self:
        if self.small_buckets != "keep" and not self.min_bucket_samples:
            raise ValueError(f"small_buckets: {self.small_buckets} needs min_bucket_samples, below which it applies")
        if self.small_buckets == "keep" and self.min_bucket_samples:
            raise ValueError("min_bucket_samples has no effect with small_buckets: keep; use merge or oversample")
        return self
