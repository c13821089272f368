"""Sampling with a part of the latent given: frames at one end, or what is around a region.

SanaImageToVideoPipeline of diffusers can hold the first latent frame alone. This is its loop for any tokens: where they
are given, the latents are clean and their timestep is 0 at every step, as in training with a condition.

Shapes in this module: F frames, H height, W width (pixels), f h w the same after the VAE; L caption tokens, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, SanaVideoPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sana.bucket import PATCH, Bucket
from sana.config.encode import VaePrecision
from sana.data.video.given_video import WHITE, GivenFrames
from sana.data.video.video import to_pixels
from sana.model.objective import flow_shift_of
from sana.model.sampling.clean_estimate import Preview, observed
from sana.model.vae import encode_latents


class Held(NamedTuple):
    """What is given of a video: `clean` bool [1, 1, f, h, w], equal within a token, and the latents there."""

    latents: Tensor  # normalised float32 [1, 16, f, h, w]
    clean: Tensor


def hold(vae: AutoencoderKLWan, given: GivenFrames, shape: Bucket, *, precision: VaePrecision) -> Held:
    """Encode what is given of a video of this shape.

    A prefix is encoded by itself: the VAE is causal, so these are the latents of every video that begins so. Of a
    suffix and of what is around a region the whole video is encoded.
    """
    encoded = encode_latents(vae, torch.from_numpy(to_pixels(given.frames))[None], precision=precision)
    channels, frames, height, width = shape.latent_shape
    latents = encoded.new_zeros(1, channels, frames, height, width)
    clean = torch.zeros(1, 1, frames, height, width, dtype=torch.bool, device=encoded.device)
    latents[:, :, : encoded.shape[2]] = encoded
    if given.keep == "prefix":
        clean[:, :, : given.num_latent_frames] = True
    elif given.keep == "suffix":
        clean[:, :, frames - given.num_latent_frames :] = True
    else:
        assert given.mask is not None  # GivenFrames has one where it keeps what is around it
        weights = torch.from_numpy(given.mask).reshape(height // PATCH, PATCH, width // PATCH, PATCH)
        white = weights.amax((1, 3)) >= WHITE
        learned = white.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1).to(clean.device)
        clean |= ~learned
    return Held(latents, clean)


@torch.no_grad()
def sample_held(
    pipe: SanaVideoPipeline,
    held: Held,
    *,
    embeds: Tensor,
    mask: Tensor,
    steps: int,
    guidance: float,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
    preview: Preview | None = None,
) -> Tensor:
    """Denoise what is not held: float32 [1, 16, f, h, w].

    `embeds` [2, L, C] and `mask` [2, L] are of the prompt and of the negative prompt, on the device. With the first
    latent frame held it is SanaImageToVideoPipeline, to the bit.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=flow_shift_of(pipe.scheduler.config, where="the model"))
    scheduler.set_timesteps(steps, device=device)
    given, clean = held.latents.to(device), held.clean.to(device)
    generator = torch.Generator().manual_seed(seed)
    noise = randn_tensor(tuple(given.shape), generator=generator, device=device, dtype=torch.float32)
    latents, moving = torch.where(clean, given, noise), (~clean[..., ::PATCH, ::PATCH]).float()
    order = [1, 0] if guidance > 1 else [0]  # as the pipeline does: the negative prompt is the first
    embeds, mask, dtype = embeds[order], mask[order], pipe.transformer.dtype
    with observed(scheduler, preview, None, steps):
        for index, timestep in enumerate(scheduler.timesteps):
            velocity = pipe.transformer(
                torch.cat([latents] * len(order)).to(dtype),
                encoder_hidden_states=embeds.to(dtype),
                encoder_attention_mask=mask,
                timestep=(timestep.expand(moving.shape) * moving).repeat(len(order), 1, 1, 1, 1),
                return_dict=False,
            )[0].float()
            if guidance > 1:
                negative, positive = velocity.chunk(2)
                velocity = negative + guidance * (positive - negative)
            latents = torch.where(clean, given, scheduler.step(velocity, timestep, latents, return_dict=False)[0])
            if on_step is not None:
                on_step(index + 1, steps)
    return latents
