"""Config of masks: where a data set has them, the stage that encodes them, and the loss that looks inside them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sana.config.section import Neutral, Section


class MasksConfig(Section):
    """The masks of a data set: a picture or a video for each clip, white where the loss looks."""

    # what is made of the files that were found: in the recipe of encode_masks
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"inverted", "missing", "empty"})

    suffix: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        pattern=r"^[^/\\]+$",
        description="the mask of clip.mp4 is clip, this and an ending: with .mask, clip.mask.png or clip.mask.mp4; in "
        "the clip's folder or, with `folder`, there",
    )
    folder: str | None = Field(
        None,
        min_length=1,
        description="a folder of the source that holds masks only: that of a/clip.mp4 is FOLDER/a/clip.png or .mp4",
    )
    column: str | None = Field(
        None,
        min_length=1,
        description="table column with the clip's mask, a path as that of the video; an empty cell: it has none",
    )
    inverted: Annotated[bool, Neutral(False)] = Field(False, description="masks are black where the loss looks")
    missing: Literal["reject", "whole"] = Field(
        "reject", description="a clip without a mask is rejected, or the loss looks at the whole of it"
    )
    empty: Literal["reject", "keep"] = Field(
        "reject",
        description="a window in which the loss would look nowhere is rejected, or kept with a loss of 0",
    )

    @field_validator("folder")
    @classmethod
    def _is_inside(cls, folder: str | None) -> str | None:
        if folder is None:
            return None
        parts = [part for part in folder.split("/") if part not in ("", ".")]
        if folder.startswith("/") or "://" in folder or ".." in parts or not parts:
            raise ValueError(f"{folder!r} is no folder of the source; write its path relative to it, such as masks")
        return "/".join(parts)

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.column is None and self.suffix is None and self.folder is None:
            raise ValueError("it does not say where masks are; set suffix (such as .mask), folder or column")
        if self.column is not None and (self.suffix is not None or self.folder is not None):
            raise ValueError("column names each mask, so suffix and folder have no effect; remove them, or column")
        return self


class EncodeMasksResources(Section):
    num_workers: int = Field(4, ge=1, le=256, description="threads that decode masks; each holds one window")
    samples_per_part: int = Field(256, ge=1, le=100_000, description="samples per committed part")
    shard_mib: int = Field(64, ge=1, le=4096, description="size in MiB at which a shard is closed")


class EncodeMasksConfig(Section):
    resources: EncodeMasksResources = EncodeMasksResources()


class MaskedLossConfig(Section):
    """The loss of a sample is its mean over the mask, weighted by it and divided by its sum."""

    probability: float = Field(
        1.0, gt=0.0, le=1.0, description="part of the samples whose loss looks inside the mask; that of others, at all"
    )
    outside_weight: Annotated[float, Neutral(0.0)] = Field(
        0.0, ge=0.0, lt=1.0, description="weight of what is outside the mask, beside 1 inside"
    )
