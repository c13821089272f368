"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's own."""

import torch

from sana.config.training.optimizer import AdamWConfig
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, decay_groups

MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names for the running means of the gradient and of its square


def build(config: AdamWConfig, parameters: Parameters) -> Optimizer:
    """Return AdamW over all parameters, with its state: zeros, as before the first step."""
    on_gpu = next(iter(parameters.values())).is_cuda
    optimizer = torch.optim.AdamW(
        decay_groups(parameters, config.weight_decay),
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=on_gpu,  # without it foreach makes temporary copies of all weights
    )
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            # where torch itself would put it at the first step
            STEP: torch.zeros((), dtype=torch.float32, device=parameter.device if on_gpu else "cpu"),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
    return Optimizer(optimizer, parameters)
