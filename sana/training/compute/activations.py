"""Which activations a step keeps for its backward pass: as many as fit.

Where blocks are not compiled each is kept or computed again as a whole, with equal bits; where they are, torch keeps a
share of each, and the share changes the last bits.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.calibration import measured_activations
from sana.costs.machine import host_memory
from sana.costs.memory import training_memory
from sana.costs.training import activation_levels, training_setting
from sana.costs.transformer import TransformerSizes

_GPU_PART = 0.92  # of free memory: the rest is for what is not counted, libraries' work space and fragments
_CPU_PART = 0.5  # of a machine's memory, which has other users


def kept_activations(
    config: TrainConfig,
    sizes: TransformerSizes,
    buckets: Iterable[Bucket],
    *,
    caption_tokens: int,
    device: torch.device,
    num_ranks: int,
    work_dir: Path,
) -> float:
    """Return the share of activations that is kept, 0 to 1.

    `auto` is what `sana calibrate` measured to fit here; without it the largest that fits by counting.

    `buckets` are those that are trained on, `num_ranks` all that share this machine's memory or cards.
    """
    setting = config.resources.activation_memory
    if setting == "recompute_all" or config.resources.offload.is_on:  # what is kept would keep its weights, too
        return 0.0
    if not isinstance(setting, str):
        return setting
    buckets = list(buckets)
    on_gpu = device.type == "cuda"
    shared_by = 1 if on_gpu else num_ranks  # ranks have a card each, and a machine's memory together
    # calibration measured one rank
    measured = measured_activations(config, sizes, buckets, work_dir=work_dir) if shared_by == 1 else None
    if measured is not None:
        return measured
    room = available_bytes(device) / shared_by
    largest = max(buckets, key=sizes.num_tokens)
    for kept in reversed(activation_levels(config, on_gpu=on_gpu)):
        tried = training_setting(config, sizes, caption_tokens=caption_tokens, on_gpu=on_gpu, kept=kept)
        if training_memory(sizes, largest, tried).peak <= room:
            return kept
    return 0.0


def available_bytes(device: torch.device) -> float:
    """Return the bytes of a device that training may take, those that this process holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _GPU_PART * (free + torch.cuda.memory_reserved(device))  # perhaps the weights, which are counted too
    return _CPU_PART * host_memory()
