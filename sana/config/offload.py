"""Config of weights that are in the host's memory and are copied to the device group by group."""

from typing import Literal

from pydantic import Field

from sana.config.section import Section


class GroupOffload(Section):
    """The five flags of a group offload as users know them from diffusers, under their names."""

    type: Literal["none", "block_level", "leaf_level"] = Field(
        "none",
        description="what is copied to the device and dropped after use: nothing, groups of transformer blocks, or "
        "single layers (not in training)",
    )
    blocks_per_group: int = Field(1, ge=1, le=1000, description="blocks copied together; block_level only")
    use_stream: bool = Field(
        True, description="copy the next group while one computes; the device then holds two groups, not one"
    )
    to_disk_path: str = Field(
        "",
        description="folder on a fast disk for weights that do not fit the host's memory; empty: none. Each process "
        "makes a folder of its own in it, and removes it (not in training)",
    )

    @property
    def is_on(self) -> bool:
        return self.type != "none"
