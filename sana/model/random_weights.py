"""Models with random weights, of the sizes that config files give: for measurements of time and memory."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SanaVideoTransformer3DModel
from transformers import Gemma2Config, Gemma2Model


def random_transformer(
    config: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    num_layers: int | None = None,
) -> SanaVideoTransformer3DModel:
    """Build the transformer of a config.json on the device; `num_layers` in place of its own."""
    sizes = dict(config) if num_layers is None else {**config, "num_layers": num_layers}
    with torch.device(device):
        model = SanaVideoTransformer3DModel.from_config(sizes)
    if dtype != torch.float32:
        rotary = dict(model.rope.named_buffers())
        model.to(dtype)
        for name, table in rotary.items():  # as a checkpoint is loaded: these stay float32
            setattr(model.rope, name, table)
    return model


def random_vae(
    config: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype, tiling: bool = False
) -> AutoencoderKLWan:
    """Build the VAE of a config.json, frozen and in eval mode."""
    with torch.device(device):
        vae = AutoencoderKLWan.from_config(dict(config))
    vae.requires_grad_(False).eval().to(dtype)
    vae.enable_slicing()  # as `load_vae` does
    if tiling:
        vae.enable_tiling()
    return vae


def random_text_encoder(config: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype) -> Gemma2Model:
    """Build the text encoder of a config.json, frozen and in eval mode."""
    with torch.device(device):
        model = Gemma2Model(Gemma2Config(**config))
    return model.requires_grad_(False).eval().to(dtype)
