"""The models and clips that the tables are measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from tests.published import TRANSFORMER

WORK_DIR = Path(".sana/gpu")  # compiled code is kept there


@dataclass(frozen=True)
class Sizes:
    """A transformer by its config.json, and what it is trained on; `num_steps` are timed, of each of a pair."""

    name: str  # by which a process of its own finds them
    device: str  # of TrainResources
    transformer: Mapping[str, Any]
    bucket: Bucket
    caption_tokens: int
    precision: str
    num_steps: int
    said: str

    def train_config(self, resources: Mapping[str, Any], *, max_steps: int = 10**6) -> TrainConfig:
        """Return the config of a full fine-tune with AdamW and EMA, one sample a step."""
        resources = {"device": self.device, "eval_every": 0, "checkpoint_every": 10**9, **resources}
        settings = {"max_steps": max_steps, "global_batch_size": 1, "mixed_precision": self.precision}
        return TrainConfig.model_validate({**settings, "learning_rate": 1e-5, "resources": resources})


def transformer(layers: int, heads: int, head_dim: int, caption_channels: int) -> dict[str, Any]:
    """Return a config.json like the published one of other sizes."""
    sizes = {"num_attention_heads": heads, "attention_head_dim": head_dim, "caption_channels": caption_channels}
    cross = {"num_cross_attention_heads": heads, "cross_attention_head_dim": head_dim}
    return {**TRANSFORMER, **sizes, **cross, "num_layers": layers, "cross_attention_dim": heads * head_dim}


PUBLISHED = Sizes(
    "published", "cuda", TRANSFORMER, Bucket(81, 480, 832), 300, "bf16", 8,
    "the published transformer, random weights, batch 1 of 81x480x832, bf16 autocast, AdamW, EMA",
)  # fmt: skip
CPU = Sizes(
    "cpu", "cpu", transformer(4, 4, 64, 64), Bucket(9, 128, 192), 64, "fp32", 8,
    "4 layers of 256 channels, random weights, batch 1 of 9x128x192, fp32, AdamW, EMA",
)  # fmt: skip
TINY = Sizes(
    "tiny", "cpu", transformer(2, 2, 12, 16), Bucket(5, 64, 96), 8, "fp32", 2,
    "2 layers of 24 channels, random weights, batch 1 of 5x64x96, fp32, AdamW, EMA",
)  # fmt: skip
BY_NAME = {sizes.name: sizes for sizes in (PUBLISHED, CPU, TINY)}
