"""Counts of the Sana Video transformer, from its config.json alone: parameters and floating point operations.

One multiplication and one addition are two FLOPs. Only matrix products and convolutions count: the rest is bound by
memory. Units in this module: D width, N tokens of the batch, L caption tokens of the batch, H hidden channels of the
feed-forward network (which computes 2 H before its gate).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sana.bucket import Bucket
from sana.errors import SanaError

TIME_CHANNELS = 256  # of the sinusoidal embedding of the timestep
KERNEL = 3 * 3  # of the depthwise convolution
TEMPORAL_KERNEL = 3  # frames of the convolution over time


@dataclass(frozen=True)
class TransformerSizes:
    """What of a SanaVideoTransformer3DModel decides its costs; the names are those of its config.json."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    num_cross_attention_heads: int
    cross_attention_head_dim: int
    cross_attention_dim: int
    caption_channels: int
    mlp_ratio: float
    in_channels: int = 16
    out_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    attention_bias: bool = False
    qk_norm: bool = True
    norm_affine: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str = "transformer/config.json") -> Self:
        """Read the values of a config.json. Raises SanaError: one of them is missing, or is no number."""
        try:
            in_channels = int(config.get("in_channels", 16))
            first, height, width = (int(size) for size in config.get("patch_size", (1, 2, 2)))
            return cls(
                num_layers=int(config["num_layers"]),
                num_attention_heads=int(config["num_attention_heads"]),
                attention_head_dim=int(config["attention_head_dim"]),
                num_cross_attention_heads=int(config["num_cross_attention_heads"]),
                cross_attention_head_dim=int(config["cross_attention_head_dim"]),
                cross_attention_dim=int(config["cross_attention_dim"]),
                caption_channels=int(config["caption_channels"]),
                mlp_ratio=float(config["mlp_ratio"]),
                in_channels=in_channels,
                out_channels=int(config.get("out_channels") or in_channels),
                patch_size=(first, height, width),
                attention_bias=bool(config.get("attention_bias", False)),
                qk_norm=config.get("qk_norm", "rms_norm_across_heads") is not None,
                norm_affine=bool(config.get("norm_elementwise_affine", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SanaError(
                f"{where}: the sizes of the transformer cannot be read ({type(error).__name__}: {error}); is it a Sana "
                "Video checkpoint in diffusers layout?"
            ) from error

    @property
    def width(self) -> int:
        """D, the channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def cross_width(self) -> int:
        """Channels of the queries, keys and values of cross-attention."""
        return self.num_cross_attention_heads * self.cross_attention_head_dim

    @property
    def hidden(self) -> int:
        """H, the channels of the feed-forward network after its gate."""
        return int(self.mlp_ratio * self.width)

    @property
    def block_parameters(self) -> int:
        """Parameters of one transformer block."""
        d, c, h = self.width, self.cross_width, self.hidden
        self_attention = 4 * d * d + d + 3 * d * self.attention_bias + 2 * d * self.qk_norm
        cross_attention = d * c + 2 * self.cross_attention_dim * c + 3 * c + c * d + d + 2 * c * self.qk_norm
        feed_forward = d * 2 * h + 2 * h + 2 * h * KERNEL + 2 * h + h * d + TEMPORAL_KERNEL * d * d
        return self_attention + cross_attention + feed_forward + 6 * d + 2 * d * self.norm_affine

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole transformer."""
        d, patch = self.width, math.prod(self.patch_size)
        embedded = patch * self.in_channels * d + d + patch * self.out_channels * (d + 1)
        times = TIME_CHANNELS * d + d + d * d + d + 6 * (d * d + d)
        captions = self.caption_channels * d + d + d * d + d + d
        return self.num_layers * self.block_parameters + embedded + times + captions + 2 * d

    def num_tokens(self, bucket: Bucket) -> int:
        """Tokens of one sample of this bucket."""
        _, frames, height, width = bucket.latent_shape
        return math.prod(size // patch for size, patch in zip((frames, height, width), self.patch_size, strict=True))

    def block_flops(self, num_tokens: int, num_captions: int) -> int:
        """FLOPs of one block's forward pass over N tokens of one sample and L caption tokens."""
        d, c, h, n, length = self.width, self.cross_width, self.hidden, num_tokens, num_captions
        self_attention = n * 2 * 4 * d * d + n * 2 * self.attention_head_dim * 2 * d + n * 2 * d
        cross_attention = n * 2 * 2 * d * c + length * 2 * 2 * self.cross_attention_dim * c + n * length * 2 * 2 * c
        feed_forward = n * 2 * (d * 2 * h + KERNEL * 2 * h + h * d + TEMPORAL_KERNEL * d * d)
        return self_attention + cross_attention + feed_forward

    def flops(self, bucket: Bucket, *, caption_tokens: int = 300, batch: int = 1, passes: float = 3.0) -> "StepFlops":
        """Return the FLOPs of `batch` samples of a bucket, whose captions are padded to `caption_tokens`.

        A training step is so many `passes` (`training_passes`).
        """
        d, n, patch = self.width, self.num_tokens(bucket), math.prod(self.patch_size)
        blocks = self.num_layers * self.block_flops(n, caption_tokens)
        ends = n * 2 * patch * (self.in_channels + self.out_channels) * d
        times = 2 * (TIME_CHANNELS * d + d * d + 6 * d * d)
        captions = caption_tokens * 2 * (self.caption_channels * d + d * d)
        return StepFlops(batch * (blocks + ends + times + captions), batch * blocks, passes)


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one pass over a batch; `blocks` are those of the forward pass that a recomputation does again."""

    forward: int
    blocks: int
    passes: float = 3.0

    @property
    def training(self) -> int:
        """Forward and backward, which computes one gradient for the inputs and one for the weights: 3 x forward.

        Of a model of which not all learns it is less: `passes` x forward.

        What MFU is measured by: what is computed again does not count.
        """
        return round(self.passes * self.forward)

    def with_recompute(self, kept: float = 0.0) -> int:
        """Return all that is computed where a share `kept` of the blocks' activations is not computed again."""
        return self.training + round((1.0 - kept) * self.blocks)
