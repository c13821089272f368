"""Config of what trains: the transformer's weights, or an adapter beside them. A union of sections by `name`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sana.config.section import Section, default_member


class FullMethod(Section):
    name: Literal["full"] = Field("full", description="the transformer's own weights learn")


class LoraMethod(Section):
    name: Literal["lora"] = Field(
        "lora",
        description="two small matrices A and B learn beside each layer of `targets`, whose output W x becomes "
        "W x + alpha / rank B A x; nothing else learns, and checkpoints and the export hold A and B alone",
    )
    rank: int = Field(16, ge=1, le=1024, description="rows of A and columns of B")
    alpha: float | None = Field(
        None, gt=0.0, le=1e6, description="scale of what is added, times 1 / rank; unset: as large as rank"
    )
    targets: tuple[str, ...] = Field(
        ("self_attention", "cross_attention"),
        min_length=1,
        max_length=64,
        description="which layers: self_attention, cross_attention (to_q, to_k, to_v, to_out.0 of each block), "
        "feed_forward (conv_inverted, conv_point, conv_temp of each block), or globs of layers' names such as "
        "attn2.to_* or transformer_blocks.1?.ff.conv_point; not conv_depth, whose convolution is grouped",
    )
    dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="probability that an element of what A reads is zeroed, by a mask of seed, step and position, so "
        "that restarts and the number of ranks change none",
    )
    use_dora: bool = Field(
        False,
        description="DoRA: the length of each row of a layer's weight learns by itself, A and B its direction; "
        "stock diffusers loads it as it does LoRA. Each forward pass makes the whole weight again: slower",
    )
    lora_plus_ratio: float = Field(
        1.0, ge=1.0, le=1000.0, description="LoRA+: the learning rate of each B is train.learning_rate x this"
    )

    @property
    def scale(self) -> float:
        """What B A x is multiplied by."""
        return self.resolved_alpha / self.rank

    @property
    def resolved_alpha(self) -> float:
        """`alpha`, or what it is where it is unset."""
        return float(self.rank) if self.alpha is None else self.alpha

    def hashed(self) -> dict[str, Any]:
        """Return the settings that change bytes: `alpha` unset and set to `rank` are the same training."""
        return {**super().hashed(), "alpha": self.resolved_alpha}


BaseWeights = Literal["plain", "int8", "fp8", "fp8_cast"]

MethodConfig = Annotated[FullMethod | LoraMethod, Field(discriminator="name"), default_member("full")]
