"""Rollout (scheduled sampling): of some samples x_t is not the noised clip, but where the model itself comes to.

A sample drawn at sigma begins some steps of the sampler above it, at its noised clip there; the model integrates down
to sigma, without gradient, as when it samples. The ordinary loss is taken at that point.

Steps are those of the sampler's table: `sigma_i = shift(0.999 (1 - i / N))` (DPMSolverMultistepScheduler with
use_flow_sigmas), shift(u) = f u / (1 + (f - 1) u). A drawn sigma is between two of its entries: its steps are as long
in u, 0.999 / N each, and end at sigma.

Each forward pass has one sample, with its own caption's length, so that its bits depend on nothing that shares its
micro batch. Shapes in this module: B samples; a latent is [B, 16, f, h, w]; K the most steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sana import metrics as m
from sana.config.training.rollout import RolloutConfig
from sana.data.loading.loader import LATENTS
from sana.model.objective import noise_latents, shift_sigma
from sana.model.random import philox_uniform
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.step_input import StepInput, predict_step

HIGHEST = 1 - 1 / 1000  # of the sampler's table, before the shift
LEVELS, NUM_STEPS = "rollout_levels", "rollout_steps"  # names of tensors
_ROUNDING = 1e-3  # of a sigma in float32, as part of a step: the shift taken back magnifies it near pure noise

Velocity = Callable[[Tensor, Tensor], Tensor]  # of x [1, 16, f, h, w] at a level, a float64 scalar


def table_levels(sigma: float, num_steps: int, config: RolloutConfig) -> Tensor:
    """Return the levels of so many steps down to sigma, or of what the table has above it: float64 [steps + 1]."""
    step = HIGHEST / config.num_inference_steps
    lowest = sigma / (config.shift - (config.shift - 1) * sigma)  # the shift taken back
    num_steps = max(min(num_steps, int((HIGHEST - lowest) / step + _ROUNDING)), 0)
    levels = shift_sigma(lowest + step * torch.arange(num_steps, -1, -1, dtype=torch.float64), config.shift)
    levels[-1] = sigma
    return levels


def euler(velocity: Velocity, x: Tensor, levels: Tensor) -> Tensor:
    """Integrate x from the first level to the last: one forward pass a step."""
    for here, there in pairwise(levels):
        x = x + (there - here) * velocity(x, here)
    return x


def heun(velocity: Velocity, x: Tensor, levels: Tensor) -> Tensor:
    """Integrate with the mean of the velocities at both ends of a step: two forward passes a step."""
    for here, there in pairwise(levels):
        first = velocity(x, here)
        second = velocity(x + (there - here) * first, there)
        x = x + (there - here) * 0.5 * (first + second)
    return x


def dpm(velocity: Velocity, x: Tensor, levels: Tensor) -> Tensor:
    """Integrate by DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095), its first step of order 1: as Euler's."""
    half_log_snr = torch.log((1 - levels) / levels)
    before: Tensor | None = None
    for i in range(len(levels) - 1):
        clean = x - levels[i] * velocity(x, levels[i])
        h = half_log_snr[i + 1] - half_log_snr[i]
        ahead = clean
        if before is not None:
            ahead = clean + 0.5 * h / (half_log_snr[i] - half_log_snr[i - 1]) * (clean - before)
        x = levels[i + 1] / levels[i] * x - (1 - levels[i + 1]) * torch.expm1(-h) * ahead
        before = clean
    return x


@dataclass(frozen=True)
class Sampler:
    """An integrator, and how many forward passes a step of it has."""

    integrate: Callable[[Velocity, Tensor, Tensor], Tensor]
    passes: int


SAMPLERS = {"euler": Sampler(euler, 1), "heun": Sampler(heun, 2), "dpm": Sampler(dpm, 1)}


@dataclass(frozen=True)
class RolloutPart:
    """Rolls out some samples of a step, drawn by (seed, step, position).

    `most`: the largest of a number of all ranks, for ranks that gather weights together in each forward pass: one with
    fewer repeats one. None: each rank has its own number. `own_length`: a caption is cut to its own length, where
    batches are padded to their longest.
    """

    config: RolloutConfig
    seed: int
    most: Callable[[int], int] | None = None
    own_length: bool = True

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the number of steps, int64 [B], and their levels, float64 [B, K + 1]; K is 0 where there are none."""
        paths = [
            table_levels(sigma, self._num_steps(slot), self.config)
            for slot, sigma in zip(slots, tensors["sigma"].double().tolist(), strict=True)
        ]
        possible = any(self.config.probability_at(slot.step) > 0 for slot in slots)  # alike on all ranks
        levels = torch.zeros(len(slots), 1 + (self.config.max_step_offset if possible else 0), dtype=torch.float64)
        for place, path in enumerate(paths):
            levels[place, : len(path)] = path
        return {LEVELS: levels, NUM_STEPS: torch.tensor([len(path) - 1 for path in paths])}

    def _num_steps(self, slot: BatchSlot) -> int:
        if philox_uniform([1], key=slot.key(self.seed, "rollout")).item() >= self.config.probability_at(slot.step):
            return 0
        return self.config.num_steps(philox_uniform([1], key=slot.key(self.seed, "rollout_steps")).item())

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:
        levels = batch.tensors[LEVELS]
        if levels.shape[1] == 1:
            return step
        # the host must know how many passes there are: it waits for the device here
        numbers = torch.stack([batch.tensors[NUM_STEPS], batch.mask.sum(1)]).tolist()
        sampler = SAMPLERS[self.config.sampler]
        num_passes = sampler.passes * sum(numbers[0])
        missing = self.most(num_passes) - num_passes if self.most else 0  # before any pass, in which they would wait
        x_t = step.x_t.clone()
        with _sampling(model) as asked:
            for place, (num_steps, length) in enumerate(zip(*numbers, strict=True)):
                if num_steps:
                    velocity = self._velocity(asked, batch, step, place, length)
                    path, one = levels[place, : num_steps + 1], slice(place, place + 1)
                    x = noise_latents(batch.latents[one], batch.noise[one], path[:1])
                    x_t[one] = sampler.integrate(velocity, x, path)
            for _ in range(missing):
                self._velocity(asked, batch, step, 0, numbers[1][0])(step.x_t[:1], levels[0, 0])
        return replace(step, x_t=x_t)

    def _velocity(self, model: nn.Module, batch: MicroBatch, step: StepInput, place: int, length: int) -> Velocity:
        """Return the model's velocity for one sample; what it is given clean stays clean."""
        one, width = slice(place, place + 1), length if self.own_length else batch.captions.shape[1]
        captions, mask = batch.captions[one, :width], batch.mask[one, :width]
        alone = MicroBatch({LATENTS: batch.latents[one], "captions": captions, "mask": mask})
        clean = None if step.clean is None else step.clean[one]
        return lambda x, level: predict_step(model, alone, StepInput(x, level.float().view(1), clean))

    def measure(self, batch: MicroBatch, per_sample: Tensor) -> Mapping[str, Scalar]:
        """Return the fraction of samples that were rolled out, and their mean loss."""
        rolled = (batch.tensors[NUM_STEPS] > 0).float()
        losses = torch.where(rolled > 0, per_sample.detach(), 0.0)
        return {
            m.ROLLOUT_FRACTION: Scalar(rolled.mean(), "mean"),
            m.ROLLOUT_LOSS: Scalar(torch.stack([losses.sum(), rolled.sum()]), "ratio"),
        }


@contextmanager
def _sampling(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the bare model is as when it samples: without dropout and gradients.

    autocast keeps no cast of a weight here: older torch would use it in the pass that learns, and it has no gradient.
    """
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    device = next(bare.parameters()).device.type
    learns = bare.training
    bare.eval()
    cast = torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )
    try:
        with torch.no_grad(), cast:
            yield bare
    finally:
        bare.train(learns)
