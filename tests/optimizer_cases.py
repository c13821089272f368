"""Optimizers in tests: their settings, a module with every kind of parameter, and the gradients of its steps."""

from typing import Any

import torch
from torch import Tensor, nn

from sana.config.training.optimizer_support import SUPPORT
from sana.config.training.train import TrainConfig
from sana.training.optimizers.optimizer import Optimizer

BF16 = [name for name, support in SUPPORT.items() if support.bf16_weights]
SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "adafactor": {"epsilon": 1e-2, "clip_threshold": 1.5, "beta2_decay": -0.7, "weight_decay": 0.1},
    "adamw_bf16": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "optimi_adamw": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "adamw_8bit": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "muon": {"matrices": "blocks.*", "momentum": 0.9, "num_iterations": 4, "weight_decay": 0.1, "beta2": 0.95},
    "prodigy": {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1, "initial_distance": 1e-3, "distance_factor": 2.0},
    "came": {"beta1": 0.8, "beta2": 0.95, "beta3": 0.97, "clip_threshold": 0.9, "weight_decay": 0.1},
}
CASES = [(name, "fp32") for name in SETTINGS] + [(name, "bf16") for name in BF16]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LR = 1e-2


def module(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A matrix large enough for 8 bits, a 1x1 and a depthwise convolution, a norm, biases, and a modulation table."""
    torch.manual_seed(1)
    made = nn.Module()
    made.blocks = nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(64, 64), "point": nn.Conv2d(6, 4, 1)})])
    made.depth = nn.Conv2d(6, 6, 3, groups=6)
    made.norm = nn.LayerNorm(5)
    made.scale_shift_table = nn.Parameter(torch.randn(2, 5))
    return made.to(dtype)


def config(name: str, weights: str = "fp32", **settings: Any) -> TrainConfig:
    optimizer = {"name": name, **SETTINGS[name]}
    precision = {"weights_dtype": weights, "mixed_precision": "bf16"}
    return TrainConfig(max_steps=9, global_batch_size=1, optimizer=optimizer, seed=7, **precision, **settings)


def gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """The gradients of a step: of several sizes, one parameter without."""
    for number, (name, parameter) in enumerate(parameters.items()):
        generator = torch.Generator().manual_seed(100 * step + number)
        gradient = torch.randn(parameter.shape, generator=generator) * 10.0 ** -(number % 3)
        parameter.grad = None if name == "depth.bias" else gradient.to(parameter.device, parameter.dtype)


def rate(step: int) -> float:
    return LR * (step + 1) / 3  # it changes with each step


def steps(optimizer: Optimizer, parameters: dict[str, nn.Parameter], numbers: range) -> None:
    for step in numbers:
        gradients(parameters, step)
        optimizer.step(rate(step))


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
