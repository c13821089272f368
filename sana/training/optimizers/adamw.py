"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's own."""

import torch
from torch import Tensor, nn

from sana.config.training.optimization.optimizer import AdamWConfig, AdamWSettings
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups

MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names for the running means of the gradient and of its square
# On a CPU foreach has the bits of one tensor after the other (fused has others) and half the calls, but it makes
# temporary copies of all weights: so it is for models that are small
_MAX_FOREACH_NUMBERS = 2**22


def build(config: AdamWConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return AdamW over all parameters, with its state: zeros, as before the first step."""
    return Optimizer(torch_adamw(config, parameters, setup), parameters)


def torch_adamw(config: AdamWSettings, parameters: Parameters, setup: Setup) -> torch.optim.AdamW:
    """Return torch's AdamW with its state."""
    on_gpu = any(parameter.is_cuda for parameter in parameters.values())  # some may be offloaded
    is_small = sum(parameter.numel() for parameter in parameters.values()) <= _MAX_FOREACH_NUMBERS
    optimizer = torch.optim.AdamW(
        decay_groups(parameters, config.weight_decay, setup.factors),
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=on_gpu,
        foreach=is_small and not on_gpu,
    )
    for parameter in parameters.values():
        # where torch itself would put it at the first step
        optimizer.state[parameter] = moments(parameter, step_device=parameter.device if on_gpu else None)
    return optimizer


def moments(
    parameter: nn.Parameter, *, dtype: torch.dtype | None = None, step_device: torch.device | None = None
) -> dict[str, Tensor]:
    """Return the state of AdamW before the first step; moments are of the parameter's dtype unless one is given."""
    return {
        STEP: torch.zeros((), dtype=torch.float32, device=step_device),
        **{moment: torch.zeros_like(parameter, dtype=dtype).detach() for moment in MOMENTS},
    }
