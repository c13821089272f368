"""The Wan 2.1 VAE: pixels to normalised latents and back.

Shapes in this module: B clips; F frames, H height, W width (pixels); f h w the same after the VAE.
"""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from sana.bucket import LATENT_CHANNELS, Bucket
from sana.config.encode import VaePrecision
from sana.model.compiled_vae import compiling
from sana.model.precision import VAE_DTYPES, VAE_MATH, float32_math
from sana.model.transfers import to_device

Vae = AutoencoderKLWan  # by this name elsewhere: diffusers is imported below sana/model alone


def load_vae(
    path: str,
    *,
    revision: str | None = None,
    precision: VaePrecision = "tf32",
    device: str | torch.device = "cpu",
    tiling: bool = False,
) -> AutoencoderKLWan:
    """Load the VAE of a diffusers-layout checkpoint, frozen and in eval mode.

    Give `encode_latents` and `decode_latents` the same precision; bf16 drifts. `tiling` (256 pixels, stride 192) saves
    memory but changes the latents, so it belongs in every cache key. The VAE keeps state while it runs: use one per
    thread.
    """
    vae = AutoencoderKLWan.from_pretrained(path, subfolder="vae", revision=revision, torch_dtype=VAE_DTYPES[precision])
    vae.requires_grad_(False).eval().to(device)
    if has_channels_last(precision, vae.device):
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):  # the attention's 2-D ones stay
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    vae.enable_slicing()  # clip by clip: a batch would change the last bits of each clip's latents
    if tiling:
        vae.enable_tiling()
    return vae


def has_channels_last(precision: VaePrecision, device: torch.device) -> bool:
    """Return whether a VAE that is loaded onto a device has its 3-D convolutions in channels_last_3d.

    Faster in TF32 and bf16 on a GPU (1.56 against 1.72 s a clip on an H200), slower on a CPU (by a fifth, the tiny
    VAE), not measured in strict fp32. Other kernels add in another order: less than the 2e-3 by which devices differ.
    """
    return device.type == "cuda" and precision != "fp32"


@torch.no_grad()
def encode_latents(vae: AutoencoderKLWan, pixels: Tensor, *, precision: VaePrecision = "tf32") -> Tensor:
    """Encode float32 [B, 3, F, H, W] in [-1, 1] to float32 [B, 16, 1 + (F - 1) / 4, H / 8, W / 8].

    The latent is `(mode - mean) / std` per channel, with the checkpoint's `latents_mean` and `latents_std`: the
    posterior's mode and not a sample, as in the official Wan encoder, so that it is the same on every run. Pixels are
    on the host; on a GPU the result may still be being computed on return.

    Raises:
        ValueError: F is not 4k + 1 or H or W not a multiple of 16 (the VAE would silently drop the rest),
            or the pixels are not float32 RGB in [-1, 1].
    """
    if pixels.ndim != 5 or pixels.shape[1] != 3 or pixels.dtype != torch.float32:
        raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}; need float32 [B, 3, F, H, W]")
    Bucket(*pixels.shape[2:])  # raises for a shape that the VAE or the transformer would floor
    low, high = (bound.item() for bound in torch.aminmax(pixels))
    if not (low >= -1.0 and high <= 1.0):  # written so that NaN fails too
        raise ValueError(f"pixels span [{low}, {high}]; need [-1, 1], that is uint8 / 127.5 - 1")
    with float32_math(VAE_MATH[precision]), compiling(vae):
        mode = vae.encode(to_device(pixels, vae.device).to(vae.dtype)).latent_dist.mode().float()
    mean, std = _statistics(vae)
    latents: Tensor = (mode - mean) / std
    return latents


@torch.no_grad()
def decode_latents(vae: AutoencoderKLWan, latents: Tensor, *, precision: VaePrecision = "tf32") -> Tensor:
    """Decode normalised latents [B, 16, f, h, w] to float32 [B, 3, 1 + 4 (f - 1), 8 h, 8 w] in [-1, 1].

    Raises:
        ValueError: the latents are not [B, 16, f, h, w].
    """
    if latents.ndim != 5 or latents.shape[1] != LATENT_CHANNELS:
        raise ValueError(f"latents are {tuple(latents.shape)}; need [B, {LATENT_CHANNELS}, f, h, w]")
    mean, std = _statistics(vae)
    z = latents.to(vae.device).float() * std + mean
    with float32_math(VAE_MATH[precision]):
        pixels: Tensor = vae.decode(z.to(vae.dtype)).sample.float()
    return pixels


def _statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, [1, 16, 1, 1, 1] on the VAE's device."""
    values = torch.tensor([vae.config.latents_mean, vae.config.latents_std])
    mean, std = to_device(values, vae.device).view(2, 1, -1, 1, 1, 1)  # a plain copy would wait for the GPU
    return mean, std
