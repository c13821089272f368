"""Config of the eval loss."""

from pydantic import Field

from sana.config.offload import FrozenGroupOffload
from sana.config.section import Section


class EvaluateResources(Section):
    """Device, ranks and precision are those of `train`."""

    offload: FrozenGroupOffload = FrozenGroupOffload()  # in place of train.resources.offload


class EvaluateConfig(Section):
    num_sigmas: int = Field(8, ge=1, le=1000, description="noise levels: midpoints of equal slices of (0, 1)")
    max_samples: int = Field(256, ge=1, le=10**9, description="eval samples used, the first by hash of sample_id")
    resources: EvaluateResources = EvaluateResources()
