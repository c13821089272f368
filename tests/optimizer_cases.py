"""Optimizers in tests: their settings, a module with every kind of parameter, and the gradients of its steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sana.config.training.optimization.optimizer_support import SUPPORT
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


def groups(parameters: dict[str, nn.Parameter], decay: float) -> list[dict[str, Any]]:
    decayed = [p for key, p in parameters.items() if p.ndim > 1 and key != "scale_shift_table"]
    others = [p for key, p in parameters.items() if not any(p is one for one in decayed)]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def library(name: str, parameters: dict[str, nn.Parameter]) -> Callable[[float], None]:
    """The optimizer's own class driven plainly, without our wrapper: returns its step at a learning rate."""
    s = SETTINGS[name]
    betas, eps = (s.get("beta1", 0.9), s.get("beta2", 0.999)), s.get("epsilon", 1e-8)
    made: list[torch.optim.Optimizer] = []
    chosen: dict[str, nn.Parameter] = {}
    flat: list[nn.Parameter] = []
    if name == "adamw":
        made = [torch.optim.AdamW(groups(parameters, 0.1), betas=betas, eps=eps)]
    elif name == "adafactor":
        made = [torch.optim.Adafactor(groups(parameters, 0.1), beta2_decay=-0.7, eps=(None, eps), d=1.5)]
    elif name == "optimi_adamw":
        from optimi import AdamW

        made = [AdamW(groups(parameters, 0.1), lr=0.0, betas=betas, eps=eps, foreach=False)]
    elif name == "muon":
        chosen = {key: p for key, p in parameters.items() if key.startswith("blocks.") and p.ndim > 1}
        others = groups({key: p for key, p in parameters.items() if key not in chosen}, 0.1)
        flat = [nn.Parameter(p.detach().view(p.shape[0], -1)) for p in chosen.values()]  # in the weights' memory
        settings = {"weight_decay": 0.1, "momentum": 0.9, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
        made = [torch.optim.Muon(flat, **settings), torch.optim.AdamW(others, betas=betas, eps=1e-10)]
    elif name == "prodigy":
        from pytorch_optimizer import Prodigy

        made = [Prodigy(groups(parameters, 0.1), betas=betas, eps=eps, d0=1e-3, d_coef=2.0)]
    elif name == "came":
        from pytorch_optimizer import CAME

        made = [CAME(groups(parameters, 0.1), betas=(0.8, 0.95, 0.97), clip_threshold=0.9, foreach=False)]

    def step(learning_rate: float) -> None:
        for matrix, weight in zip(flat, chosen.values(), strict=True):
            matrix.grad = weight.grad.view(matrix.shape)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad()

    return step
