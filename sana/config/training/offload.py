"""Config of weights that are in the host's memory and are copied to the device group by group."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sana.config.section import Section


class GroupOffload(Section):
    """The five flags of a group offload as users know them from diffusers, under their names."""

    type: Literal["none", "block_level", "leaf_level"] = Field(
        "none",
        description="what is copied to the device and dropped after use: nothing, groups of the model's blocks, or "
        "single layers (not in training)",
    )
    blocks_per_group: int = Field(1, ge=1, le=1000, description="blocks copied together; block_level only")
    use_stream: bool = Field(
        True, description="on a GPU, copy the next group while one computes; the device then holds two groups, not one"
    )
    to_disk_path: str = Field(
        "",
        description="folder on a fast disk for weights that do not fit the host's memory, relative to work_dir; empty: "
        "none. Each process makes a folder of its own in it, and removes it (not in training)",
    )

    @property
    def is_on(self) -> bool:
        return self.type != "none"

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> Self:
        if self.type != "block_level" and self.blocks_per_group > 1:
            raise ValueError(
                f"blocks_per_group {self.blocks_per_group} is of type block_level, and type is {self.type}; "
                "set type to block_level, or leave it out"
            )
        if not self.is_on and self.to_disk_path:
            raise ValueError(f"to_disk_path {self.to_disk_path} needs a type; set it to block_level or leaf_level")
        return self


class FrozenGroupOffload(GroupOffload):
    """A group offload of a model that does not learn, through diffusers."""

    @model_validator(mode="after")
    def _streams_take_one_block(self) -> Self:
        if self.is_on and self.use_stream and self.blocks_per_group > 1:
            raise ValueError(
                f"diffusers' streams copy one block at a time, not blocks_per_group {self.blocks_per_group}; "
                "use blocks_per_group 1, or use_stream false"
            )
        return self
