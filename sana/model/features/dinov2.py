"""Features of frames by DINOv2, through transformers.

Shapes in this module: F frames, H height, W width (pixels); P x Q patches of 14 pixels; D numbers of a feature.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Dinov2Model
from transformers.utils import logging as transformers_logging

from sana.bucket import TEMPORAL_STRIDE
from sana.model.features.area_pool import area_pool
from sana.model.precision import MODEL_MATH, float32_math
from sana.model.transfers import to_device

# of ImageNet's colours, which DINOv2 was trained with
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def latent_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return of a window's frames [F, H, W, 3] those that stand for its latent frames: 0, 4, 8, ... of 4 k + 1.

    Latent frame 0 is made of frame 0 alone, and latent frame k of frames 4 k - 3 to 4 k, the last of which it is
    asked for: nothing after it has any part in it, for the VAE is causal.
    """
    return np.ascontiguousarray(frames[::TEMPORAL_STRIDE])


class FeatureEncoder:
    """A frozen Dinov2Model that gives the features of patches, averaged to a grid."""

    def __init__(self, model: Any, *, precision: Literal["tf32", "fp32", "bf16"]) -> None:
        self._model, self._precision = model, precision

    @classmethod
    def load(
        cls, path: str, *, revision: str | None, precision: Literal["tf32", "fp32", "bf16"], device: torch.device
    ) -> "FeatureEncoder":
        """Load it from a local folder or the hub, onto a device."""
        transformers_logging.disable_progress_bar()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model: Any = Dinov2Model.from_pretrained(path, revision=revision or "main", dtype=dtype)
        return cls(model.requires_grad_(False).eval().to(device), precision=precision)

    @property
    def patch_size(self) -> int:
        return int(self._model.config.patch_size)

    @torch.no_grad()
    def encode(self, frames: Tensor, *, size: tuple[int, int], grid: tuple[int, int], at_once: int) -> Tensor:
        """Return the features of frames, uint8 [F, H, W, 3] on the host: float32 [F, rows, columns, D].

        Frames are resized to `size`, multiples of the patch, by antialiased bicubic interpolation, `at_once` frames a
        forward pass. The class token is left out.
        """
        found = [self._encode(some, size, grid) for some in torch.split(frames, at_once)]
        return torch.cat(found)

    def _encode(self, frames: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        device = self._model.device
        with float32_math(MODEL_MATH[self._precision]):
            pixels = to_device(frames, device).permute(0, 3, 1, 2).float() / 255
            resized = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp_(0, 1)
            mean, std = to_device(torch.tensor([_MEAN, _STD]), device).view(2, 1, 3, 1, 1)
            tokens = self._model((resized - mean).div_(std).to(self._model.dtype)).last_hidden_state[:, 1:].float()
            rows, columns = (side // self.patch_size for side in size)
            return area_pool(tokens.unflatten(1, (rows, columns)), grid)
