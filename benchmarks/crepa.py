"""What CREPA and a masked loss cost: a step with each against a plain one, and features against latents, in turns.

    python -m benchmarks.crepa [published]

Steps are the trainer's own on random weights: of 4 layers of 256 channels on a CPU, with `published` of the published
sizes on a GPU. Features are those of DINOv2's sizes with random weights, frame by frame as the stage makes them.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Dinov2Config, Dinov2Model

from benchmarks.gpu.sizes import CPU, PUBLISHED, Sizes
from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.features import encoder_size, feature_grid
from sana.model.features.dinov2 import FeatureEncoder
from sana.model.random_weights import random_vae
from sana.model.vae import encode_latents
from sana.training.synthetic import SyntheticTraining
from tests.published import VAE

TURNS = 6
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "CREPA": {"crepa": {"block_index": 2}},
    "CREPA, after its cut-off": {"crepa": {"block_index": 2, "cutoff_step": 1}},
    "masked loss": {"masked_loss": {}},
}
# of the published encoders: numbers of a feature, layers, heads, whether its feed-forward network is gated
ENCODERS = {"dinov2-small": (384, 12, 6, False), "dinov2-giant": (1536, 40, 24, True)}


def steps(sizes: Sizes) -> dict[str, float]:
    """Return the seconds of a step of each setting, of a CPU those of its work: the fastest of all turns."""
    made = {}
    for name, changed in SETTINGS.items():
        plain = sizes.train_config({"compile": "never", "activation_memory": 1.0})
        config = TrainConfig.model_validate({**plain.model_dump(), **changed})
        made[name] = SyntheticTraining(config, sizes.transformer, work_dir=Path(".sana/bench"), bucket=sizes.bucket)
    best = dict.fromkeys(made, 1e9)
    batches = {name: training.batches(sizes.bucket, sizes.caption_tokens) for name, training in made.items()}
    for turn in range(1 + TURNS):  # the first warms up
        for name, training in made.items():
            took = seconds_of(partial(training.take, batches[name]), sizes.device)
            best[name] = min(best[name], took) if turn else 1e9
    return best


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Return the seconds of a call: on a CPU of its work, which other programs change least."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def encoding(bucket: Bucket, encoder_name: str, device: torch.device) -> tuple[float, float]:
    """Return seconds of a window's latents by the published VAE, and of its features by an encoder of this name."""
    hidden, layers, heads, gated = ENCODERS[encoder_name]
    config = Dinov2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, use_swiglu_ffn=gated, image_size=518
    )
    encoder = FeatureEncoder(Dinov2Model(config).eval().to(device), precision="tf32")
    vae = random_vae(VAE, device=device, dtype=torch.float32)
    _, num_frames, _, _ = bucket.latent_shape
    frames = torch.randint(0, 256, (num_frames, bucket.height, bucket.width, 3), dtype=torch.uint8)
    pixels = torch.rand(1, 3, bucket.num_frames, bucket.height, bucket.width) * 2 - 1
    size, grid = encoder_size(bucket, 420, 14), feature_grid(bucket, 2)
    for _ in range(2):  # the first warms up
        latents = seconds_of(lambda: encode_latents(vae, pixels), device.type)
        features = seconds_of(lambda: encoder.encode(frames, size=size, grid=grid, at_once=8), device.type)
    return latents, features


def main() -> None:
    is_published = sys.argv[1:] == ["published"]
    sizes = PUBLISHED if is_published else CPU
    device = torch.device(sizes.device)
    found = steps(sizes)
    print(f"| a step, {sizes.said} | s | against plain |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.3f} | {seconds / found['plain']:.3f} |")
    bucket, name = (sizes.bucket, "dinov2-giant") if is_published else (Bucket(5, 128, 224), "dinov2-small")
    latents, features = encoding(bucket, name, device)
    print(f"\n| a window of {bucket}, random weights | s |\n|---|---|")
    print(f"| latents, the published VAE | {latents:.2f} |\n| features, {name} | {features:.2f} |")


if __name__ == "__main__":
    main()
