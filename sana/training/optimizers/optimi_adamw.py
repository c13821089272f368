"""torch-optimi's AdamW: Kahan summation keeps beside each bf16 weight what its rounding lost, and adds it next time."""

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sana.config.training.optimization.optimizer import OptimiAdamWConfig
from sana.training.optimizers.adamw import MOMENTS
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups

COMPENSATION = "kahan_comp"  # optimi's name


class _OptimiAdamW(Optimizer):
    def set_step(self, step: int) -> None:
        """Set the number of steps taken, which optimi counts per group."""
        for group in self._optimizer.param_groups:
            group[STEP].fill_(step)


def build(config: OptimiAdamWConfig, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return it over all parameters, with its state: zeros, as before the first step."""
    from optimi import AdamW  # an extra package, checked when the config is loaded

    # its kernels take neither what is on a CPU nor shards
    whole_on_gpu = all(parameter.is_cuda and not isinstance(parameter, DTensor) for parameter in parameters.values())
    in_triton = whole_on_gpu and find_spec("triton") is not None
    optimizer = AdamW(
        decay_groups(parameters, config.weight_decay, setup.factors),
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=0.0,
        foreach=False,  # deprecated there, and it makes temporary copies of all weights
        triton=in_triton,
    )
    for group in optimizer.param_groups:
        # what optimi itself would put there at the first step
        group |= {"setup": True, STEP: torch.tensor(0, dtype=torch.int32)}
        group["kahan_sum"] = any(parameter.dtype == torch.bfloat16 for parameter in group["params"])
    rounded = False
    for parameter in parameters.values():
        state: dict[str, Tensor | None] = {moment: torch.zeros_like(parameter).detach() for moment in MOMENTS}
        if parameter.dtype == torch.bfloat16:
            state[COMPENSATION], rounded = torch.zeros_like(parameter).detach(), True
        else:  # its kernels want a tensor there
            state[COMPENSATION] = torch.zeros(1, dtype=torch.uint8, device=parameter.device) if in_triton else None
        optimizer.state[parameter] = state
    return _OptimiAdamW(optimizer, parameters, unsaved=() if rounded else (COMPENSATION,))
