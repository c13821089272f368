"""Config of the eval loss."""

from typing import Annotated

from pydantic import Field

from sana.config.section import Neutral, Section
from sana.config.training.offload import FrozenGroupOffload


class EvaluateResources(Section):
    """Device, ranks and precision are those of `train`."""

    offload: FrozenGroupOffload = FrozenGroupOffload()  # in place of train.resources.offload


class EvaluateConfig(Section):
    num_sigmas: int = Field(8, ge=1, le=1000, description="noise levels: midpoints of equal slices of (0, 1)")
    max_samples: int = Field(256, ge=1, le=10**9, description="eval samples used, the first by hash of sample_id")
    separate_datasets: Annotated[tuple[str, ...], Neutral(())] = Field(
        (),
        max_length=64,
        description="ids of data sets with role: eval whose loss is measured by itself, not as part of the eval "
        "loss, such as generic clips that show what the model forgets",
    )
    conditions: Annotated[bool, Neutral(True)] = Field(
        True,
        description="also measure the eval loss with each of train.conditions in every sample; each takes as long "
        "again as the eval loss, and there is none without conditions",
    )
    resources: EvaluateResources = EvaluateResources()
