"""AdamW with moments, and weights that are bf16, rounded stochastically: on average a small step is not lost.

torchao's `_AdamW` rounds weights like this, but moments to the nearest: with beta2 0.999 a mean of squares in bf16 then
never falls, as each step takes less than half a unit in the last place off it. So the step is written out here.
"""

from typing import Any

import torch
from torch import Tensor

from sana.config.training.optimization.optimizer import AdamWBf16Config
from sana.training.optimizers.adamw import moments
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups
from sana.training.parallel.sharding import local, part_of

# odd: the seeds of other steps and of other parameters differ
_SEED_OF_STEP = 0x9E3779B97F4A7C15
_SEED_OF_PARAMETER = 0xBF58476D1CE4E5B9


def build(config: AdamWBf16Config, parameters: Parameters, setup: Setup) -> Optimizer:
    """Return it over all parameters, with its state: zeros, as before the first step."""
    optimizer = AdamWBf16(
        [{"eps": config.epsilon, **group} for group in decay_groups(parameters, config.weight_decay, setup.factors)],
        betas=(config.beta1, config.beta2),
        seed=setup.seed,
    )
    for number, parameter in enumerate(parameters.values()):
        optimizer.state[parameter] = moments(parameter, dtype=torch.bfloat16)
        optimizer.numbers[parameter] = number
    return Optimizer(optimizer, parameters)


class AdamWBf16(torch.optim.Optimizer):
    """AdamW over fp32 or bf16 parameters.

    How a parameter is rounded in a step depends on the seed, the step's number and the parameter's place in the model
    only: `numbers` has that, 0 for a parameter that it lacks.
    """

    def __init__(self, params: list[dict[str, Any]], *, betas: tuple[float, float], seed: int) -> None:
        super().__init__(params, {"lr": 0.0, "betas": betas})
        self._seed = seed
        self.numbers: dict[Tensor, int] = {}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step along the gradients."""
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state[STEP] += 1
                step = int(state[STEP].item())  # on the CPU
                if parameter.device not in generators:
                    generators[parameter.device] = torch.Generator(parameter.device)
                number = self.numbers.get(parameter, 0)
                seed = self._seed + step * _SEED_OF_STEP + number * _SEED_OF_PARAMETER
                generators[parameter.device].manual_seed(seed % 2**63)
                tensors = [local(t) for t in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])]
                _step(tensors, _Draws(parameter, generators[parameter.device]), group, step=step)


class _Draws:
    """16 random bits for each number of a tensor; of a sharded one for this rank's part of those for the whole one.

    So the same bits are drawn on any number of ranks.
    """

    def __init__(self, parameter: Tensor, generator: torch.Generator) -> None:
        self._parameter, self._generator = parameter, generator

    def next(self) -> Tensor:
        """Return int32 numbers from 0 to 65535."""
        device = self._generator.device
        shape = self._parameter.shape
        drawn = torch.randint(0, 1 << 16, shape, generator=self._generator, dtype=torch.int32, device=device)
        return part_of(drawn, self._parameter)


def _step(tensors: list[Tensor], draws: _Draws, group: dict[str, Any], *, step: int) -> None:
    """Change a weight and its two moments; all is computed in float32."""
    lr, betas = group["lr"], group["betas"]
    weight, gradient, first, second = tensors
    gradient = gradient.float()
    mean = first.float().lerp_(gradient, 1 - betas[0])
    square = second.float().mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    new = weight.float() if weight.dtype == torch.bfloat16 else weight
    new.mul_(1 - lr * group["weight_decay"])
    divisor = (square / (1 - betas[1] ** step)).sqrt_().add_(group["eps"])
    new.addcdiv_(mean, divisor, value=-lr / (1 - betas[0] ** step))
    if new is not weight:
        weight.copy_(round_stochastically(new, draws.next()))
    first.copy_(round_stochastically(mean, draws.next()))
    second.copy_(round_stochastically(square, draws.next()))


def round_stochastically(numbers: Tensor, draws: Tensor) -> Tensor:
    """Return float32 numbers as bf16: each is rounded up or down, with the chance that makes it right on average.

    The 16 bits that bf16 lacks are added to the draw of 16 bits, and carry over into those it has. Changes `numbers`;
    a value near the largest may become infinite.
    """
    bits = numbers.view(torch.int32)
    return bits.add_(draws).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
