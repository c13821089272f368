"""The losses that the base check compares: of each sample at fixed levels and noise, asked in several ways.

Shapes in this module: S noise levels of one sample; a latent is [16, f, h, w], a caption [L, C].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.data.eval_table import EvalTable
from sana.model.objective import flow_matching_loss, noise_latents, timesteps_of, velocity_target
from sana.model.transformer import predict
from sana.training.batch import MicroBatch
from sana.training.evaluation import at_all_levels, forwards_of
from sana.training.parallel.parallel import Parallel

MIDDLE = (0.3125, 0.4375, 0.5625, 0.6875)  # where a linear guess is worst, and a model of the data far better
LEVELS = (*MIDDLE, 0.8125, 0.9375)  # near noise, a caption says most of what there is to know
OWN, PERMUTED = "as configured", "permuted captions"
# what a model may be asked with: the right one for Sana Video, and usual mistakes
TIMESTEPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "timestep 1000 sigma": lambda sigma: 1000 * sigma,
    "timestep sigma": lambda sigma: sigma,
    "timestep 1000 (1 - sigma)": lambda sigma: 1000 * (1 - sigma),
}


@dataclass(frozen=True)
class ProbedSample:
    """A held-out sample: its id, latents (float32), and a caption by each name; OWN and PERMUTED, and instructions."""

    sample_id: str
    latents: Tensor
    captions: Mapping[str, Tensor]


def probe(
    parallel: Parallel,
    model: nn.Module,
    samples: Sequence[ProbedSample],
    config: TrainConfig,
    *,
    on_sample: Callable[[int], None],
) -> dict[str, EvalTable]:
    """Return a table of losses for each way of asking: by caption, with OWN captions by timestep; [samples, LEVELS]."""
    found: dict[str, list[np.ndarray]] = {}
    for number, sample in enumerate(samples):
        for name, batch, timesteps in _questions(sample, config):
            losses = [_loss(parallel, model, part, timesteps) for part in forwards_of(batch)]
            found.setdefault(name, []).append(torch.cat(losses).cpu().numpy())
        on_sample(number + 1)
    ids = tuple(sample.sample_id for sample in samples)
    return {name: EvalTable(ids, LEVELS, np.stack(losses)) for name, losses in found.items()}


def _questions(
    sample: ProbedSample, config: TrainConfig
) -> Iterator[tuple[str, MicroBatch, Callable[[Tensor], Tensor]]]:
    for name, caption in sample.captions.items():
        yield name, _batch(sample, caption, config), timesteps_of
    own = _batch(sample, sample.captions[OWN], config)
    sigma = own.sigma
    for name, other in TIMESTEPS.items():
        if not torch.equal(other(sigma), timesteps_of(sigma)):
            yield name, own, other


def _batch(sample: ProbedSample, caption: Tensor, config: TrainConfig) -> MicroBatch:
    return at_all_levels(sample.latents, caption, sample.sample_id, levels=LEVELS, padding=config.text_padding)


@torch.no_grad()
def _loss(parallel: Parallel, model: nn.Module, batch: MicroBatch, timesteps: Callable[[Tensor], Tensor]) -> Tensor:
    with parallel.autocast():
        batch = batch.to(parallel.device)
        noisy = noise_latents(batch.latents, batch.noise, batch.sigma)
        velocity = predict(model, noisy, timesteps(batch.sigma), batch.captions, batch.mask)
        return flow_matching_loss(velocity, velocity_target(batch.latents, batch.noise)).double()
