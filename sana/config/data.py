"""Config of the data sets and of the stages that read them: download and probe."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.bucket import BucketRules
from sana.config.captions import CaptionsConfig
from sana.config.section import Neutral, Section
from sana.config.training.conditions import Conditions, check_together
from sana.config.training.masks import MasksConfig


class DatasetConfig(Section):
    """One data set: where it is, and how its clips are used."""

    # not where the files are: a laptop and a bucket with the same files have the same hash.
    # The settings that bucket and train read are in their recipes.
    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {
            "source",
            "revision",
            "max_rejected_fraction",
            "disabled",
            "role",
            "repeats",
            "sampling_weight",
            "bucket",
            "conditions",
        }
    )

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="short name; part of every clip_id, so a new name makes new clips",
    )
    source: str = Field(
        min_length=1,
        description="a local folder, s3://bucket/prefix, hf://datasets/owner/name, or one file, local or s3://: a "
        "table of videos and captions (.parquet, .csv, .jsonl) or an archive (.tar, .tar.gz, .zip); only ever read",
    )
    revision: str = Field("main", description="branch, tag or commit of a Hugging Face data set; else unused")
    source_pattern: str | None = Field(
        None,
        description="regular expression on the file's stem whose first group is the source_id (the video or shot a "
        "clip was cut from), so that no source is in both splits; unset: every clip is its own source",
    )
    max_rejected_fraction: float = Field(
        0.05, ge=0.0, le=1.0, description="a stage that rejects a larger part of its clips fails, with the top reasons"
    )

    archives: Annotated[Literal["auto", "read", "ignore"], Neutral("auto")] = Field(
        "auto",
        description="archives in the source, .tar (WebDataset), .tar.gz, .zip, and .parquet with videos in its rows: "
        "`read` their members as files beside them; `ignore` them; `auto`, read if the source has no other video, "
        "or less than a tenth of their bytes",
    )
    archive_files: Annotated[tuple[str, ...], Neutral(())] = Field(
        (), description="globs, such as data/train-*: only these archives are read; unset: all"
    )
    captions: CaptionsConfig = CaptionsConfig()
    disabled: bool = Field(False, description="leave this data set out")
    role: Literal["split", "train", "eval"] = Field(
        "split",
        description="train or eval: all of it; split: by bucket.eval_fraction and holdout, but what it shares with "
        "a data set of another role has that role",
    )
    repeats: int = Field(
        0,
        ge=0,
        le=10_000,
        description="extra draws of each of its samples in an epoch: 0 is once, N is N + 1 times",
    )
    sampling_weight: float = Field(
        1.0,
        gt=0.0,
        le=1000.0,
        description="each sample is drawn (repeats + 1) x sampling_weight times an epoch; for a fraction, that part "
        "of the samples is drawn, others in each epoch",
    )
    bucket: BucketRules | None = Field(None, description="rules for this data set instead of those in `bucket`")
    conditions: Conditions | None = Field(
        None,
        max_length=8,
        description="of its samples, instead of train.conditions; an empty list: text to video only",
    )
    images: Annotated[Literal["auto", "read", "ignore"], Neutral("auto")] = Field(
        "auto",
        description="still pictures (.png, .jpg, .webp, .tif, .bmp, .avif): `read` them as clips of one frame; "
        "`ignore` them; `auto`, read if each of its buckets has one frame",
    )
    masks: Annotated[MasksConfig | None, Neutral(None)] = Field(
        None, description="masks of its clips, which train.masked_loss and conditions look inside; unset: it has none"
    )

    @property
    def where(self) -> str:
        """The name of this data set in messages; an override of a setting is `download.datasets.<id>.<key>=`."""
        return f"download.datasets[{self.id}]"

    @property
    def draws_per_epoch(self) -> float:
        """How often each of its samples is drawn in an epoch, on average."""
        return (self.repeats + 1) * self.sampling_weight

    @field_validator("conditions")
    @classmethod
    def _conditions_together(cls, conditions: Conditions | None) -> Conditions | None:
        return None if conditions is None else check_together(conditions)

    @model_validator(mode="after")
    def _is_trained_on(self) -> Self:
        if self.conditions is not None and self.role == "eval":
            raise ValueError("conditions say how samples are trained on, and role is eval; remove one")
        return self

    @model_validator(mode="after")
    def _archive_files_are_read(self) -> Self:
        if self.archive_files and self.archives == "ignore":
            raise ValueError("archive_files has no effect with archives: ignore; remove one")
        return self

    @model_validator(mode="after")
    def _one_source_id_rule(self) -> Self:
        if self.source_pattern and self.captions.source_column:
            raise ValueError("source_pattern and captions.source_column both say what the source_id is; remove one")
        return self

    @field_validator("source_pattern")
    @classmethod
    def _pattern_has_a_group(cls, pattern: str | None) -> str | None:
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
    cache_gib: float = Field(
        20.0, gt=0.0, le=1e6, description="GiB of disk for fetched videos and archives, and unpacked videos"
    )


class DownloadConfig(Section):
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, description="where the videos and captions are")
    resources: DownloadResources = DownloadResources()

    @model_validator(mode="after")
    def _no_duplicate_ids(self) -> Self:
        ids = [dataset.id for dataset in self.datasets]
        duplicates = sorted({name for name in ids if ids.count(name) > 1})
        if duplicates:
            raise ValueError(f"two data sets share the id {', '.join(duplicates)}; ids must differ")
        if not self.enabled:
            raise ValueError("every data set is disabled; enable one")
        return self

    @property
    def enabled(self) -> tuple[DatasetConfig, ...]:
        """The data sets in use."""
        return tuple(dataset for dataset in self.datasets if not dataset.disabled)

    def hashed(self) -> dict[str, object]:
        return super().hashed() | {"datasets": [dataset.hashed() for dataset in self.enabled]}


class ProbeResources(Section):
    num_workers: int = Field(8, ge=1, le=256, description="threads that open videos")
    clips_per_part: int = Field(1024, ge=1, le=1_000_000, description="clips per committed part")


class ProbeConfig(Section):
    duplicates: Literal["reject", "keep"] = Field(
        "reject",
        description="of the videos of one data set that have equal content only the first by clip_id is kept, or all; "
        "equal contents, of other data sets too, are always in one split",
    )
    resources: ProbeResources = ProbeResources()
