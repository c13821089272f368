"""Config of the best checkpoint: by which evaluations it is chosen, and when a run ends before its last step."""

from typing import Literal

from pydantic import Field

from sana.config.section import Section


class EarlyStoppingConfig(Section):
    """Judged by the eval loss of the EMA weights, on the eval split and grid of `evaluate`."""

    every: int = Field(500, ge=1, le=10**9, description="steps between the evaluations that are judged")
    patience: int | None = Field(
        3,
        ge=1,
        le=10**6,
        description="the run ends after so many evaluations in a row that are surely worse than the best one, sample "
        "by sample; null: never, only the best checkpoint is chosen",
    )
    stderrs: float = Field(
        2.0,
        ge=0.0,
        le=100.0,
        description="standard errors of the paired difference from which on it is sure; 0: any that is not better",
    )
    export: Literal["best", "last"] = Field(
        "best", description="which checkpoint is exported, evaluated and sampled: that of the lowest loss, or the last"
    )
