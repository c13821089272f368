"""Config of the filters: stages that reject clips, and are part of a run only where their section is."""

from typing import Self

from pydantic import Field, model_validator

from sana.config.section import Section


class FilterCaptionsConfig(Section):
    min_words: int | None = Field(
        None, ge=1, le=10_000, description="a clip is rejected if one of its captions has fewer words; unset: no limit"
    )
    max_words: int | None = Field(
        None, ge=1, le=10_000, description="a clip is rejected if one of its captions has more words; unset: no limit"
    )

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.min_words is None and self.max_words is None:
            raise ValueError("neither min_words nor max_words is set: set one, or remove the section")
        if self.min_words and self.max_words and self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}: no clip would be left")
        return self
