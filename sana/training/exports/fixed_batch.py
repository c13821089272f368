"""A fixed small batch, and the velocity that a transformer predicts of it: what exports are compared by.

Noise and captions are drawn by keys, so that the batch is the same in every process.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sana.bucket import LATENT_CHANNELS
from sana.model.precision import MODEL_MATH, float32_math
from sana.model.random import philox_normal
from sana.model.transformer import pad, predict

Precision = Literal["fp32", "tf32", "bf16"]

# beside the batch in a file: what was predicted of it, by the trained model, and by its weights in strict float32
VELOCITY, STRICT_VELOCITY = "velocity", "strict_velocity"

_LATENT = (LATENT_CHANNELS, 3, 8, 12)  # of each sample: few tokens, and no two of its sides alike
_TOKENS = (12, 7)  # of its captions: the second is padded
_TIMESTEPS = (200.0, 800.0)


def fixed_batch(caption_channels: int) -> dict[str, Tensor]:
    """Return two samples, on the CPU: noisy latents, timesteps, captions and their mask."""
    captions = [philox_normal([n, caption_channels], key=("passport", "caption", n)) for n in _TOKENS]
    embeds, mask = pad(captions)
    noisy = torch.stack([philox_normal(_LATENT, key=("passport", "latent", n)) for n in _TOKENS])
    return {"noisy": noisy, "timesteps": torch.tensor(_TIMESTEPS), "captions": embeds, "mask": mask}


@torch.no_grad()
def velocity_of(
    model: nn.Module, batch: Mapping[str, Tensor], device: torch.device, autocast: AbstractContextManager[Any]
) -> Tensor:
    """Return the velocity that a model predicts of a batch: float32 on the CPU. Eager, in eval mode, within `autocast`.

    Blocks that are compiled compute as they are written: a graph for this one batch would take a minute on a GPU, and
    have other last bits than the exports, which are not compiled.
    """
    was_training = model.training
    model.eval()
    try:
        with autocast, torch.compiler.set_stance("force_eager"):
            return predict(model, **{name: tensor.to(device) for name, tensor in batch.items()}).cpu()
    finally:
        model.train(was_training)


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within it models compute as `train.mixed_precision` says."""
    cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with float32_math(MODEL_MATH[precision]), cast:
        yield


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the length of the difference over that of `wanted`; nan where a number is not finite."""
    difference = torch.linalg.vector_norm((found - wanted).double())
    result = float(difference / torch.linalg.vector_norm(wanted.double()))
    return result if math.isfinite(result) else math.nan
