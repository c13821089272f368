"""A trial with a tiny model: settings with which every stage takes a minute, on a CPU as well."""

from collections.abc import Mapping
from typing import Any

from sana.costs.transformer import TransformerSizes

MOST_PARAMETERS = 20_000_000  # of a tiny transformer; the smallest that is published has a hundred times as many
SAMPLES: Mapping[str, Any] = {"bucket.table": "resolution", "bucket.num_frames": 17, "bucket.resolution": 96}
# random weights learn fast, and nothing of them is worth a check; 120 steps show that the eval loss falls
TRAINING: Mapping[str, Any] = {
    "train.max_steps": 120,
    "train.global_batch_size": 2,
    "train.learning_rate": 3e-3,
    "train.ema_decay": 0.98,
    "train.base_check": "off",
    "sample.num_inference_steps": 10,
}


def is_tiny(sizes: TransformerSizes) -> bool:
    """Whether a model is one to try things with, as `sana make-tiny-model` makes it."""
    return sizes.num_parameters <= MOST_PARAMETERS
