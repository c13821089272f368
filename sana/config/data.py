"""Config of the data stages: download, probe, bucket."""

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.bucket import OFFICIAL_480P, Bucket
from sana.config.section import Section


class DatasetConfig(Section):
    # where the files are is not what they are: a laptop and a bucket with the same files agree
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"source", "revision", "max_refused_fraction"})

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="short name; part of every clip_id, so renaming it makes new clips",
    )
    source: str = Field(
        min_length=1,
        description="a local folder, s3://bucket/prefix, or hf://datasets/owner/name; it is only ever read",
    )
    revision: str = Field("main", description="branch, tag or commit of a Hugging Face data set; else unused")
    source_pattern: str | None = Field(
        None,
        description="regular expression on the file's stem whose first group is the source_id (the film or shot a clip "
        "was cut from), so that one source is never in both splits; unset: every clip is its own source",
    )
    max_refused_fraction: float = Field(
        0.05, ge=0.0, le=1.0, description="a stage that refuses a larger part of its clips fails, with the top reasons"
    )

    @field_validator("source_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError(f"{pattern!r} has no group; put the part that names the source in parentheses")
        return pattern


class DownloadResources(Section):
    num_workers: int = Field(8, ge=1, le=256, description="threads that list, hash and fetch files")
    cache_gib: float = Field(20.0, gt=0.0, description="disk budget in GiB for videos fetched from a remote source")


class DownloadConfig(Section):
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, description="where the videos and captions are")
    resources: DownloadResources = DownloadResources()

    @model_validator(mode="after")
    def _no_twins(self) -> Self:
        ids = [dataset.id for dataset in self.datasets]
        twins = sorted({name for name in ids if ids.count(name) > 1})
        if twins:
            raise ValueError(f"two data sets share the id {', '.join(twins)}; ids must differ")
        return self

    def hashed(self) -> dict[str, object]:
        return {"datasets": [dataset.hashed() for dataset in self.datasets]}


class ProbeResources(Section):
    num_workers: int = Field(8, ge=1, le=256, description="threads that open videos")
    clips_per_part: int = Field(1024, ge=1, le=1_000_000, description="clips that are committed at once")


class ProbeConfig(Section):
    resources: ProbeResources = ProbeResources()


def _official_480p() -> tuple[str, ...]:
    return tuple(f"81x{height}x{width}" for height, width in OFFICIAL_480P)


class BucketConfig(Section):
    buckets: tuple[str, ...] = Field(
        default_factory=_official_480p,
        min_length=1,
        description="shapes a clip may take, frames x height x width; a clip goes to the nearest in log aspect ratio",
    )
    window: Literal["head", "middle"] = Field("head", description="which frames of a longer clip are used")
    allow_upscale: bool = Field(False, description="take clips smaller than their bucket instead of refusing them")
    eval_fraction: float = Field(
        0.05, ge=0.0, lt=1.0, description="part of the sources held out for the eval loss, chosen by hash"
    )
    eval_sources: tuple[str, ...] = Field((), description="source_ids that are held out by name")
    split_seed: int = Field(0, ge=0, description="salt of the hash that chooses held-out sources")

    @field_validator("buckets")
    @classmethod
    def _parse(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # sorted: the order of the list changes nothing, so it must not change the fingerprint
        return tuple(str(bucket) for bucket in sorted({Bucket.parse(name) for name in names}))

    @model_validator(mode="after")
    def _someone_is_held_out(self) -> Self:
        if not self.eval_fraction and not self.eval_sources:
            raise ValueError(
                "eval_fraction is 0 and eval_sources is empty: nothing would be held out for the eval loss"
            )
        return self

    @property
    def shapes(self) -> tuple[Bucket, ...]:
        return tuple(Bucket.parse(name) for name in self.buckets)
