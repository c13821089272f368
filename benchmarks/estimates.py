"""Do the estimates of memory hold? Counted peaks of training against measured ones, each in a process of its own.

    python -m benchmarks.estimates [--cuda]

The trainer's own step on a mid-size model with random weights. On a CPU the peak is that of resident memory above
that of a process which has imported everything and trained a tiny model; with --cuda that of a GPU's allocator.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.training import estimate_training
from sana.costs.transformer import TransformerSizes

MIB = 2**20
TINY = {
    "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": 16, "mlp_ratio": 3.0,
}  # fmt: skip
ADAFACTOR = {"name": "adafactor"}
FUSED = "fp32, recomputed, fused_backward"
OFFLOADED = "bf16, recomputed, offloaded"  # on a CPU the copies of blocks are in the same memory
BLOCKS = {"type": "block_level", "use_stream": False}
# name: layers, width, bucket, caption tokens, precision, micro batch, global batch, recomputed, optimizer
SETTINGS: dict[str, tuple[int, int, str, int, str, int, int, bool, dict[str, str]]] = {
    "fp32, recomputed": (4, 768, "9x192x256", 300, "fp32", 1, 1, True, {}),
    "fp32, all kept": (3, 512, "17x160x160", 64, "fp32", 1, 1, False, {}),
    "bf16, recomputed": (6, 512, "17x256x256", 300, "bf16", 1, 1, True, {}),
    "bf16, all kept, batch 2": (4, 512, "17x256x256", 64, "bf16", 2, 2, False, {}),
    "bf16, recomputed, 2 accumulated, Adafactor": (4, 768, "9x192x256", 64, "bf16", 1, 2, True, ADAFACTOR),
    FUSED: (4, 768, "9x192x256", 300, "fp32", 1, 1, True, {}),
    OFFLOADED: (6, 512, "17x256x256", 300, "bf16", 1, 1, True, {}),
}
_CUDA = "--cuda"
_MEASURE = "--measure"  # one setting, in this process
# memory that is freed goes back, so that resident memory is what is held
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def transformer(layers: int, width: int) -> dict[str, Any]:
    """Return a config.json of so many layers and channels, with heads of 64."""
    heads = {"num_attention_heads": width // 64, "num_cross_attention_heads": width // 64}
    sizes = {"attention_head_dim": 64, "cross_attention_head_dim": 64, "cross_attention_dim": width}
    return {**TINY, **heads, **sizes, "num_layers": layers, "caption_channels": 64}


def config_of(name: str, device: str = "cpu") -> TrainConfig:
    *_, precision, micro, batch, recomputed, optimizer = SETTINGS[name]
    kept = "recompute_all" if recomputed else 1.0
    resources = {"device": device, "micro_batch_size": micro, "activation_memory": kept}
    resources |= {"offload": BLOCKS} if name == OFFLOADED else {}
    settings = {"max_steps": 10, "global_batch_size": batch, "mixed_precision": precision, "resources": resources}
    if name == FUSED:
        resources["fused_backward"], settings["gradient_clipping"] = True, "none"
    return TrainConfig.model_validate(settings | ({"optimizer": optimizer} if optimizer else {}))


def estimated(name: str, device: str = "cpu") -> int:
    """Return the counted peak in bytes."""
    layers, width, bucket, tokens, *_ = SETTINGS[name]
    sizes = TransformerSizes.of(transformer(layers, width))
    return estimate_training(
        config_of(name), sizes, Bucket.parse(bucket), caption_tokens=tokens, on_gpu=device == "cuda"
    ).peak


def measured(name: str, device: str = "cpu") -> int:
    """Return the peak in bytes of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.estimates", *([_CUDA] if device == "cuda" else []), _MEASURE, name]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **_MALLOC}, cwd=root)
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, device: str) -> int:
    """Train two steps, and return the peak of this process in bytes."""
    import torch

    from sana.training.peak_memory import PeakMemory
    from sana.training.synthetic import SyntheticTraining

    layers, width, bucket, tokens, *_ = SETTINGS[name]
    config = config_of(name, device)
    work_dir = Path(tempfile.gettempdir())
    warm = SyntheticTraining(config, TINY, work_dir=work_dir, bucket=Bucket(5, 64, 64))
    warm.measure(caption_tokens=8, num_steps=2)
    peak = PeakMemory(torch.device(device))
    training = SyntheticTraining(config, transformer(layers, width), work_dir=work_dir, bucket=Bucket.parse(bucket))
    training.measure(caption_tokens=tokens, num_steps=2)
    return peak.read()


def main() -> None:
    device = "cuda" if _CUDA in sys.argv else "cpu"
    if _MEASURE in sys.argv:
        print(measure(sys.argv[-1], device))
        return
    print("| setting | layers x width, bucket | counted MiB | measured MiB | ratio |\n|---|---|---|---|---|")
    for name, (layers, width, bucket, *_) in SETTINGS.items():
        counted, peak = estimated(name), measured(name, device)
        shape = f"{layers} x {width}, {bucket}"
        print(f"| {name} | {shape} | {counted / MIB:.0f} | {peak / MIB:.0f} | {counted / peak:.3f} |", flush=True)


if __name__ == "__main__":
    main()
