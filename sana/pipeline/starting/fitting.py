"""Full or LoRA: which settings make the training of a model fit a device, by counting; nothing is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sana.config.pipeline import Config
from sana.costs.training import estimate_training
from sana.costs.transformer import TransformerSizes
from sana.stages.bodies.trainable_here import largest_bucket

Method = Literal["full", "lora"]
PUBLISHED = TransformerSizes(20, 20, 112, 20, 112, 2240, 2304, 3.0)  # of Sana Video 2B, if its files are not here
_PART = 0.92  # of a GPU's memory, as `activation_memory: auto` takes it
_HOST_PART = 0.8  # of the host's: it has other things to hold
LORA_LEARNING_RATE = 1e-4
# in the order in which they are tried: each needs less of the device than the one before
_RUNGS: Mapping[Method, tuple[Mapping[str, Any], ...]] = {
    "full": (
        {},
        {"train.resources.ema_device": "cpu"},
        {"train.weights_dtype": "bf16", "train.optimizer.name": "adamw_bf16", "train.resources.ema_device": "cpu"},
        {"train.resources.offload.type": "block_level"},
    ),
    "lora": ({"train.method.name": "lora", "train.learning_rate": LORA_LEARNING_RATE},),
}
_AS_USUAL = 2  # rungs of `full` on which nothing of quality or speed is given up


@dataclass(frozen=True)
class Fit:
    """Settings of a method, by dotted key, with which it takes so much of the device and of the host beside it."""

    method: Method
    settings: Mapping[str, Any]
    peak_bytes: int
    host_bytes: int
    fits: bool
    as_usual: bool  # without a setting that makes it slower or less exact


@dataclass(frozen=True)
class Room:
    """What there is: bytes of one device, and of the host's memory. Without a GPU both are the same."""

    device_bytes: int
    host_bytes: int
    on_gpu: bool


def fit(method: Method, make: Callable[[Mapping[str, Any]], Config], sizes: TransformerSizes, room: Room) -> Fit:
    """Return the first rung of a method that fits, or its last: `make` gives the config with settings by dotted key."""
    tried = []
    for number, settings in enumerate(_RUNGS[method]):
        config = make(settings)
        needed = estimate_training(
            config.train,
            sizes,
            largest_bucket(config),
            caption_tokens=config.encode_captions.max_tokens,
            on_gpu=room.on_gpu,
        )
        fits = needed.peak <= _PART * room.device_bytes and needed.host <= _HOST_PART * room.host_bytes
        usual = method == "lora" or number < _AS_USUAL
        tried.append(Fit(method, settings, needed.peak, needed.host, fits, usual))
        if fits:
            break
    return tried[-1]


def recommended(full: Fit, lora: Fit) -> Fit:
    """Return what is proposed: full if it fits as usual, else LoRA if that fits, else full if it fits at all."""
    if full.fits and full.as_usual:
        return full
    if lora.fits:
        return lora
    return full if full.fits else lora
