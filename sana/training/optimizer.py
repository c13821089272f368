"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from sana.config.optimizer import ConstantSchedule, within
from sana.config.train import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names for AdamW's running means of the gradient and of its square


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step`, counted from 0: a pure function, so that nothing is to be restored.

    `peak * min(1, (step + 1) / warmup_steps)`: the first step learns already, step `warmup_steps - 1` is at the peak.
    After that constant, or a cosine to `min_learning_rate` over `decay_steps`, where it stays.
    """
    schedule = within(config.lr_schedule, config.max_steps)
    if step < schedule.warmup_steps:
        return config.learning_rate * (step + 1) / schedule.warmup_steps
    if isinstance(schedule, ConstantSchedule):
        return config.learning_rate
    assert schedule.decay_steps is not None  # within() has set it
    part = min(1.0, (step + 1 - schedule.warmup_steps) / schedule.decay_steps)
    low, high = schedule.min_learning_rate, config.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * part)) / 2


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over all parameters, its state already there: zeros, as before the first step.

    Weight decay holds for matrices and kernels; biases, norms and modulation tables have none, as is usual
    (Loshchilov and Hutter, arXiv 1711.05101; the grouping of nanoGPT's `configure_optimizers`).
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or name.endswith("scale_shift_table") else decayed).append(parameter)
    on_gpu = next(model.parameters()).is_cuda
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.optimizer.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        eps=config.optimizer.epsilon,
        fused=on_gpu,  # without it foreach makes temporary copies of all weights
    )
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            # where torch itself would put it at the first step
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device if on_gpu else "cpu"),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
    return optimizer


def set_step(optimizer: torch.optim.AdamW, step: int) -> None:
    """Say how many steps were taken: AdamW's bias correction depends on it."""
    for state in optimizer.state.values():
        state["step"].fill_(step)


def set_learning_rate(optimizer: torch.optim.AdamW, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
