"""The noise and the noise level of each sample of a training step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sana.config.training.objective import LogitNormalSampling, TimestepSampling
from sana.model.objective import sigmas
from sana.model.random import philox_normal, philox_uniform
from sana.training.batch import BatchSlot


@dataclass(frozen=True)
class NoisePolicy:
    """Draws keyed by (seed, step, position in the global batch)."""

    sampling: TimestepSampling
    seed: int
    flow_shift: float  # that of the config, or of the checkpoint where the sampling is `checkpoint`

    def draw(self, slots: Sequence[BatchSlot], latents: Tensor) -> dict[str, Tensor]:
        """Return `noise`, float32 of the latents' shape [B, 16, f, h, w], and `sigma`, float32 [B] in (0, 1)."""
        shape = latents.shape[1:]
        uniform = torch.cat([philox_uniform([1], key=slot.key(self.seed, "sigma")) for slot in slots])
        sampling = self.sampling
        normal = {"mean": sampling.mean, "std": sampling.std} if isinstance(sampling, LogitNormalSampling) else {}
        return {
            "noise": torch.stack([philox_normal(shape, key=slot.key(self.seed, "noise")) for slot in slots]),
            "sigma": sigmas(sampling.name, uniform, shift=self.flow_shift, **normal),
        }
