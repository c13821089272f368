"""The models that benchmarks run: the tiny one, on a GPU with a VAE and a text encoder of the published sizes."""

from pathlib import Path

import torch

from sana.model.random_weights import random_text_encoder, random_vae
from sana.model.tiny_model import build_tiny_model
from tests.published import TEXT_ENCODER, VAE


def build_model(out: Path, *, device: torch.device) -> None:
    """Write a model with random weights in diffusers layout; its transformer is tiny."""
    build_tiny_model(out)
    if device.type == "cuda":
        random_vae(VAE, device=device, dtype=torch.float32).save_pretrained(out / "vae")
        encoder = random_text_encoder(TEXT_ENCODER, device=device, dtype=torch.bfloat16)
        encoder.save_pretrained(out / "text_encoder")
