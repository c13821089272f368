"""Which settings fit which card? Counted, not measured: full fine-tuning of the published model on 81x480x832.

    python -m benchmarks.cards

For each way to train and each card the largest share of activations that fits, and its peak; then what the host holds.
"""

from typing import Any

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.memory import GIB, MASTER_BYTES, TrainingMemory, training_memory
from sana.costs.training import activation_levels, optimizer_bytes, training_setting
from sana.costs.transformer import TransformerSizes
from tests.published import TRANSFORMER

BUCKET, CAPTION_TOKENS = Bucket(81, 480, 832), 300
CARDS_GIB = {"24 GB": 23.5, "48 GB": 44.5, "80 GB": 79.2, "141 GB": 139.8}  # what such cards give, the least of each
FREE = 0.92  # of it, as train.resources.activation_memory: auto takes

_BF16 = {"weights_dtype": "bf16"}
_BLOCKS = {"offload": {"type": "block_level"}}
# what is set beside the defaults: train, and below it resources
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the defaults": ({}, {}),
    "`ema_device: cpu`": ({}, {"ema_device": "cpu"}),
    "`adamw_8bit`, `ema_device: cpu`": ({"optimizer": {"name": "adamw_8bit"}}, {"ema_device": "cpu"}),
    "`adamw_bf16`, bf16 weights, `ema_device: cpu`": (
        {"optimizer": {"name": "adamw_bf16"}, **_BF16}, {"ema_device": "cpu"},
    ),
    "`adamw_8bit`, bf16 weights, `ema_device: cpu`": (
        {"optimizer": {"name": "adamw_8bit"}, **_BF16}, {"ema_device": "cpu"},
    ),
    "`adamw_bf16`, bf16 weights, `ema_device: cpu`, `fused_backward`": (
        {"optimizer": {"name": "adamw_bf16"}, **_BF16, "gradient_clipping": "none"},
        {"ema_device": "cpu", "fused_backward": True},
    ),
    "`offload`": ({}, _BLOCKS),
    "`offload`, `adamw_bf16`, bf16 weights": ({"optimizer": {"name": "adamw_bf16"}, **_BF16}, _BLOCKS),
}  # fmt: skip


def config_of(way: str) -> TrainConfig:
    """Return the training section of a way, with one clip a step and rank."""
    train, resources = WAYS[way]
    section = {"max_steps": 1, "global_batch_size": 1, **train, "resources": {"device": "cuda", **resources}}
    return TrainConfig.model_validate(section)


def needed(way: str, kept: float | None = None) -> TrainingMemory:
    """Return what is counted with this share of the activations."""
    sizes = TransformerSizes.of(TRANSFORMER)
    setting = training_setting(config_of(way), sizes, caption_tokens=CAPTION_TOKENS, on_gpu=True, kept=kept)
    return training_memory(sizes, BUCKET, setting)


def largest(way: str, card_gib: float) -> tuple[float, TrainingMemory] | None:
    """Return the largest share of activations that fits a card, and the memory then; None: nothing fits."""
    config = config_of(way)
    levels = (0.0,) if config.resources.offload.is_on else activation_levels(config, on_gpu=True)
    fitting = [(kept, needed(way, kept)) for kept in levels]
    fitting = [(kept, memory) for kept, memory in fitting if memory.peak <= FREE * card_gib * GIB]
    return max(fitting, key=lambda found: found[0], default=None)


def checkpoint_copy(way: str) -> int:
    """Return the bytes of the copy that a checkpoint is written from, in the host's memory."""
    sizes, config = TransformerSizes.of(TRANSFORMER), config_of(way)
    weight = 2 if config.weights_dtype == "bf16" else MASTER_BYTES
    return (weight + MASTER_BYTES) * sizes.num_parameters + optimizer_bytes(config, sizes)


def rows() -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"| `train` and its `resources` | {' | '.join(CARDS_GIB)} | host | + a checkpoint's copy |",
        f"|---|{'---|' * len(CARDS_GIB)}---|---|",
    ]
    for way in WAYS:
        found = [largest(way, gib) for gib in CARDS_GIB.values()]
        cells = ["-" if one is None else f"{one[1].peak / GIB:.0f} GiB, {one[0]:g}" for one in found]
        host, copy = needed(way, 0.0).host / GIB, checkpoint_copy(way) / GIB
        lines.append(f"| {way} | {' | '.join(cells)} | {host:.0f} GiB | {copy:.0f} GiB |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
