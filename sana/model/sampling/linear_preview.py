"""A linear map from a latent's 16 channels to the mean colour of the pixels that it stands for, for previews.

Fitted by least squares on clips of the store. Shapes in this module: f h w of a latent, F H W of the video.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sana.bucket import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from sana.record import Record


@dataclass(frozen=True)
class LinearPreview(Record):
    """The map, and how good it is on clips that it was not fitted on: PSNR of mean colours in dB, and r2.

    PSNR alone says little where all colours are alike; r2 is the share of their variance that the map explains: 1 is
    all, 0 no more than one colour would.
    """

    weights: tuple[tuple[float, float, float], ...]  # [16 channels, RGB], to pixels in [-1, 1]
    bias: tuple[float, float, float]
    psnr_db: float
    r2: float
    num_clips: int  # that it was fitted on
    num_held_out: int

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return the colours of normalised latents [1, 16, f, h, w]: uint8 [f, h, w, 3]."""
        weights, bias = torch.tensor(self.weights), torch.tensor(self.bias)
        colours = latents[0].float().cpu().permute(1, 2, 3, 0) @ weights + bias
        pixels: NDArray[np.uint8] = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        return pixels


def mean_colours(pixels: Tensor) -> Tensor:
    """Return the mean colours of pixels [3, F, H, W] by latent pixel, [f, h, w, 3]: the first frame stands alone."""
    channels, _, height, width = pixels.shape
    first, rest = pixels[:, :1], pixels[:, 1:]
    frames = torch.cat([first, rest.reshape(channels, -1, TEMPORAL_STRIDE, height, width).mean(2)], 1)
    patches = frames.reshape(channels, frames.shape[1], height // SPATIAL_STRIDE, SPATIAL_STRIDE, -1, SPATIAL_STRIDE)
    return patches.mean((3, 5)).permute(1, 2, 3, 0)


def fit_linear_preview(
    clips: Iterable[tuple[Tensor, Tensor]], held_out: Iterable[tuple[Tensor, Tensor]]
) -> LinearPreview:
    """Fit on pairs of a latent [16, f, h, w] and its pixels [3, F, H, W] in [-1, 1], and measure on others.

    Raises:
        ValueError: there is no clip on one side.
    """
    fitted, measured = [_rows(*clip) for clip in clips], [_rows(*clip) for clip in held_out]
    if not fitted or not measured:
        raise ValueError(f"a linear preview needs clips to fit and to measure; got {len(fitted)} and {len(measured)}")
    inputs, colours = (torch.cat(parts) for parts in zip(*fitted, strict=True))
    solution = torch.linalg.lstsq(inputs, colours, driver="gelsd").solution
    errors = torch.cat([colours - inputs @ solution for inputs, colours in measured])
    mse = float(errors.square().mean())
    shown = torch.cat([colours for _, colours in measured])
    variance = float((shown - shown.mean(0)).square().mean())
    return LinearPreview(
        weights=tuple((float(r), float(g), float(b)) for r, g, b in solution[:LATENT_CHANNELS]),
        bias=(float(solution[-1, 0]), float(solution[-1, 1]), float(solution[-1, 2])),
        psnr_db=10 * math.log10(4.0 / max(mse, 1e-12)),  # pixels span 2
        r2=1.0 - mse / max(variance, 1e-12),
        num_clips=len(fitted),
        num_held_out=len(measured),
    )


def _rows(latent: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return a row for each latent pixel: float64 channels and a one [n, 17], and colours [n, 3]."""
    inputs = latent.double().cpu().permute(1, 2, 3, 0).reshape(-1, LATENT_CHANNELS)
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1), mean_colours(pixels.double().cpu()).reshape(-1, 3)
