"""The noise and the noise level of each sample of a training step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sana.bucket import PATCH
from sana.config.training.objective import NoiseOffset, TimestepSampling, TokenShift
from sana.model.random import philox_normal, philox_uniform
from sana.training.batch import BatchSlot
from sana.training.objectives.noise_levels import bucket_shift, noise_levels


@dataclass(frozen=True)
class NoisePolicy:
    """Draws keyed by (seed, step, position in the global batch)."""

    sampling: TimestepSampling
    seed: int
    flow_shift: float  # that of the config, or of the checkpoint where the sampling is `checkpoint`
    shift_by_tokens: TokenShift | None = None
    offset: NoiseOffset | None = None

    def draw(self, slots: Sequence[BatchSlot], latents: Tensor) -> dict[str, Tensor]:
        """Return `noise`, float32 of the latents' shape [B, 16, f, h, w], and `sigma`, float32 [B] in (0, 1)."""
        shape = latents.shape[1:]
        uniform = torch.cat([philox_uniform([1], key=slot.key(self.seed, "sigma")) for slot in slots])
        return {
            "noise": torch.stack([self._noise(shape, slot) for slot in slots]),
            "sigma": noise_levels(self.sampling, uniform, shift=self.shift_of(shape)),
        }

    def shift_of(self, latent_shape: Sequence[int]) -> float:
        """Return the flow shift of a latent [16, f, h, w], by its tokens where the config asks for it."""
        num_tokens = math.prod(latent_shape[1:]) // PATCH**2
        return bucket_shift(self.shift_by_tokens, self.flow_shift, num_tokens)

    def _noise(self, shape: Sequence[int], slot: BatchSlot) -> Tensor:
        noise = philox_normal(shape, key=slot.key(self.seed, "noise"))
        offset = self.offset
        if offset is None or philox_uniform([1], key=slot.key(self.seed, "is_offset")).item() >= offset.probability:
            return noise
        # offset noise (Guttenberg 2023, "Diffusion with offset noise"): one number a channel, all over the clip
        of_channels = philox_normal([shape[0], *[1] * (len(shape) - 1)], key=slot.key(self.seed, "offset"))
        return noise + offset.strength * of_channels
