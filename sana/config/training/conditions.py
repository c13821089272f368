"""Config of conditions: what of a sample the model is given clean, beside the caption, and how often.

One list holds sections by their `name`. A sample gets at most one of them; what is left of the probability is text to
video.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sana.bucket import Bucket
from sana.config.section import Section

_ROUNDING = 1e-9  # by which a sum of probabilities may be above 1
_PROBABILITY = "of a sample to be trained so"
_LEARN = "what is learned: the region, with what is around it given clean; or what is around it"

Learned = Literal["inside", "outside"]


class _Condition(Section):
    probability: float = Field(gt=0.0, le=1.0, description=_PROBABILITY)

    def why_never(self, shapes: Sequence[Bucket]) -> str | None:  # noqa: ARG002 - of others
        """Return why it applies to no sample of these buckets, and what does; None: it applies to one of them."""
        return None


class ImageToVideoCondition(_Condition):
    name: Literal["image_to_video"] = Field(
        "image_to_video", description="the first latent frame is given; a sample of one frame stays text to video"
    )

    @property
    def label(self) -> str:
        return self.name

    def why_never(self, shapes: Sequence[Bucket]) -> str | None:
        if max(shape.latent_shape[1] for shape in shapes) > 1:
            return None
        return "image_to_video leaves nothing to learn of samples of one frame, and no bucket is longer; remove it"


class ExtendCondition(_Condition):
    name: Literal["extend"] = Field(
        "extend",
        description="latent frames at the start or the end are given; a sample of one frame stays text to video",
    )
    side: Literal["prefix", "suffix"] = Field("prefix", description="which frames are given: the first or the last")
    min_latent_frames: int = Field(
        2, ge=1, le=10**6, description="fewest latent frames that are given; k of a prefix are 1 + 4 (k - 1) frames"
    )
    max_latent_frames: int = Field(
        6, ge=1, le=10**6, description="most latent frames that are given; one at least is left to learn"
    )

    @property
    def label(self) -> str:
        return f"{self.name}_{self.side}"

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_latent_frames > self.max_latent_frames:
            raise ValueError(
                f"min_latent_frames {self.min_latent_frames} is above max_latent_frames {self.max_latent_frames}; "
                "swap them"
            )
        return self

    def why_never(self, shapes: Sequence[Bucket]) -> str | None:
        longest = max(shape.latent_shape[1] for shape in shapes)
        if self.min_latent_frames < longest:
            return None
        if longest == 1:
            return "extend leaves nothing to learn of samples of one frame, and no bucket is longer; remove it"
        return (
            f"extend gives min_latent_frames {self.min_latent_frames} or more, and the longest bucket has {longest}, "
            f"of which one is to be learned; use at most {longest - 1}"
        )


class InpaintCondition(_Condition):
    name: Literal["inpaint"] = Field(
        "inpaint", description="boxes are drawn over the frame, in steps of 16 pixels; what is around them is given"
    )
    learn: Learned = Field("inside", description=_LEARN)
    max_boxes: int = Field(1, ge=1, le=64, description="most boxes of a sample: drawn from 1 to this")
    min_size: float = Field(0.25, gt=0.0, le=1.0, description="least height and width of a box, as part of the frame's")
    max_size: float = Field(0.75, gt=0.0, le=1.0, description="most height and width of a box, as part of the frame's")
    frames: Literal["all", "run"] = Field(
        "all", description="when a box is there: in all frames, or in a run of latent frames that is drawn"
    )

    @property
    def label(self) -> str:
        return "inpaint" if self.learn == "inside" else "outpaint"

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}; swap them")
        if self.min_size == 1.0 and self.frames == "all":
            raise ValueError(
                "min_size 1 covers all of every frame: that is text to video, or with learn outside nothing to learn; "
                "lower it, or set frames to run"
            )
        return self


class InpaintMaskCondition(_Condition):
    name: Literal["inpaint_mask"] = Field(
        "inpaint_mask",
        description="the white of the clip's own mask (download.datasets.ID.masks) is learned, what is around it is "
        "given, by tokens of 16 x 16 pixels; a mask that is all white or black stays text to video",
    )
    learn: Learned = Field("inside", description=_LEARN)

    @property
    def label(self) -> str:
        return "inpaint_mask" if self.learn == "inside" else "outpaint_mask"


ConditionConfig = Annotated[
    ImageToVideoCondition | ExtendCondition | InpaintCondition | InpaintMaskCondition, Field(discriminator="name")
]
Conditions = tuple[ConditionConfig, ...]


def check_together(conditions: Conditions) -> Conditions:
    """Return conditions of one list as they are. Raises ValueError: two are of one kind, or are too many together."""
    labels = [one.label for one in conditions]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two conditions are {twice[0]}; keep one, with both probabilities")
    total = math.fsum(one.probability for one in conditions)
    if total > 1.0 + _ROUNDING:
        each = " + ".join(f"{one.probability:g}" for one in conditions)
        raise ValueError(
            f"probabilities of the conditions are {each} = {total:g} together, above 1: a sample has one condition at "
            "most; lower one"
        )
    return conditions
