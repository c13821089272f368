"""The eval loss: fixed samples, fixed noise levels, fixed noise, so that two losses differ by the weights alone.

One forward is one sample at as many of its levels as its shape says; ranks take whole samples; sums are exact. So the
loss is bit-equal for any number of ranks and any order on one device type. Shapes: N eval samples, S noise levels.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sana.artifact import digest_of
from sana.bucket import PATCH
from sana.config.evaluate import EvaluateConfig
from sana.config.training.conditions import ConditionConfig
from sana.data.eval_table import EvalTable
from sana.data.loading.loader import LATENTS, Reader, Samples
from sana.model.objective import flow_matching_loss, velocity_target
from sana.model.random import philox_normal
from sana.training.batch import MicroBatch, pad_captions, read_ahead
from sana.training.objectives.clean_masks import draw_clean
from sana.training.objectives.conditions import CLEAN
from sana.training.objectives.objective import Objective
from sana.training.objectives.step_input import mean_over_elements, noised, predict_step
from sana.training.parallel.parallel import Parallel

# Tokens of one forward: a clip of 81x480x832. At this size a GPU is busy; eight such levels at once took twice as long
# a level as one, for tensors of more than 2^31 elements, and small clips one by one would leave it idle.
TOKENS_PER_FORWARD = 32_760


def eval_rows(samples: Samples, max_samples: int, *, among: Sequence[int] | None = None) -> list[int]:
    """Return the first `max_samples` rows by hash of sample_id, in the order of sample_id; of those `among`, if given.

    More clips in the split replace few of the chosen rows; a lower `max_samples` gives a subset.
    """
    names = samples.sample_ids()
    rows = range(len(names)) if among is None else among
    hashed = sorted((hashlib.blake2b(names[row].encode(), digest_size=16).digest(), row) for row in rows)
    return sorted(row for _, row in hashed[:max_samples])


def given_clean(samples: Samples, row: int, condition: ConditionConfig) -> Tensor | None:
    """Return what a condition gives of an eval sample, the same at every level and step; None: it does not apply."""
    _, frames, height, width = (int(size) for size in samples.tensors[LATENTS].shapes[row])
    key = ("eval", samples.sample_id(row), condition.label)
    return draw_clean(condition, (frames, height, width), key=key)


def eval_list_digest(sample_ids: tuple[str, ...]) -> str:
    """Return the digest of the list of eval samples: losses on different lists cannot be compared."""
    return digest_of(list(sample_ids))


def eval_sigmas(num_sigmas: int) -> tuple[float, ...]:
    """Return the midpoints of `num_sigmas` equal slices of (0, 1)."""
    return tuple((level + 0.5) / num_sigmas for level in range(num_sigmas))


def evaluate_model(
    parallel: Parallel,
    model: nn.Module,
    objective: Objective,
    reader: Reader,
    config: EvaluateConfig,
    *,
    text_padding: Literal["batch", "fixed"],
    on_round: Callable[[int, int], bool],
    rows: Sequence[int] | None = None,
    condition: ConditionConfig | None = None,
) -> EvalTable | None:
    """Evaluate a model on the fixed grid, in the autocast dtype of training; every rank returns the same table.

    `rows` of the reader's samples are evaluated, in this order; without them those of the eval loss.
    The loss is always that of flow matching; the objective only predicts the velocity. With a `condition` it is that of
    what is not given, of the samples that it applies to, which may be none. `model` is the bare model, not
    its distributed wrapper, and keeps its mode (train or eval). Each round is one sample per rank: every rank computes
    in every round, and a rank without a sample left repeats the last one, and its result is dropped.
    `on_round(samples done, samples)` is called on every rank after each round; when it returns False, which it must on
    all ranks alike, the evaluation ends and the result is None.
    """
    samples = reader.samples
    rows = eval_rows(samples, config.max_samples) if rows is None else rows
    if condition is not None:
        rows = [row for row in rows if given_clean(samples, row, condition) is not None]
    levels = eval_sigmas(config.num_sigmas)
    if not rows:
        return EvalTable((), levels, np.zeros((0, len(levels))))
    losses = torch.zeros(len(rows), len(levels), dtype=torch.float64, device=parallel.device)
    indexes = [min(start + parallel.rank, len(rows) - 1) for start in range(0, len(rows), parallel.num_ranks)]
    read = partial(_all_levels, reader, levels=levels, padding=text_padding, condition=condition)
    was_training = model.training
    model.eval()
    try:
        # the next sample is read, and its noise drawn, while the device works on this one
        with closing(read_ahead(read, [rows[index] for index in indexes], parallel.device, num_ahead=1)) as batches:
            for turn, (index, batch) in enumerate(zip(indexes, batches, strict=True)):
                sample_losses = _losses(parallel, model, objective, batch)
                if index == turn * parallel.num_ranks + parallel.rank:
                    losses[index] = sample_losses
                if not on_round(min((turn + 1) * parallel.num_ranks, len(rows)), len(rows)):
                    return None
    finally:
        model.train(was_training)
    # every entry is one rank's loss plus zeros, so this sum rounds nothing
    gathered = parallel.sum(losses).cpu().numpy()
    return EvalTable(tuple(samples.sample_id(row) for row in rows), levels, gathered)


def levels_per_forward(num_levels: int, latent_shape: Sequence[int]) -> int:
    """Return how many of a sample's noise levels one forward takes: a divisor of all, of at most TOKENS_PER_FORWARD.

    It depends on the sample's own latent shape [16, f, h, w] alone, so nothing else changes the bits of its losses. A
    divisor, so that compiled code meets one batch size a bucket.
    """
    tokens = math.prod(latent_shape[1:]) // PATCH**2
    fitting = [n for n in range(1, num_levels + 1) if num_levels % n == 0 and n * tokens <= TOKENS_PER_FORWARD]
    return max(fitting, default=1)


@torch.no_grad()
def _losses(parallel: Parallel, model: nn.Module, objective: Objective, batch: MicroBatch) -> Tensor:
    """Return the losses of one sample at all its levels: float64 [S], on the device."""
    parts = list(forwards_of(batch))
    # ranks gather sharded weights together: one with fewer forwards repeats its last, and its result is dropped
    repeats = parallel.largest(len(parts)) - len(parts) if parallel.is_sharded else 0
    losses = [_forward(parallel, model, objective, part) for part in [*parts, *parts[-1:] * repeats]]
    return torch.cat(losses[: len(parts)])


def forwards_of(batch: MicroBatch) -> Iterator[MicroBatch]:
    """Cut one sample at all its levels, [S, ...], into the batches of its forwards."""
    size = levels_per_forward(len(batch), batch.latents.shape[1:])
    for start in range(0, len(batch), size):
        yield MicroBatch({name: tensor[start : start + size] for name, tensor in batch.tensors.items()})


def _forward(parallel: Parallel, model: nn.Module, objective: Objective, batch: MicroBatch) -> Tensor:
    with parallel.autocast():
        batch = batch.to(parallel.device)
        target = velocity_target(batch.latents, batch.noise)
        if CLEAN not in batch.tensors:
            return flow_matching_loss(objective.velocity(model, batch), target).double()
        step = replace(noised(batch), clean=batch.tensors[CLEAN])
        return mean_over_elements((predict_step(model, batch, step) - target).square(), step).double()


def _all_levels(
    reader: Reader,
    row: int,
    *,
    levels: tuple[float, ...],
    padding: Literal["batch", "fixed"],
    condition: ConditionConfig | None,
) -> MicroBatch:
    """Return one sample at all noise levels, [S, ...]: first caption, no dropout; and what a condition gives of it."""
    sample = reader.read(row, caption=0)
    batch = at_all_levels(sample.latents, sample.caption, reader.samples.sample_id(row), levels=levels, padding=padding)
    clean = None if condition is None else given_clean(reader.samples, row, condition)
    if clean is None:
        return batch
    return MicroBatch({**batch.tensors, CLEAN: clean.expand(len(levels), *clean.shape)})


def at_all_levels(
    latents: Tensor, caption: Tensor, sample_id: str, *, levels: tuple[float, ...], padding: Literal["batch", "fixed"]
) -> MicroBatch:
    """Return a sample's latents [16, f, h, w] and caption [L, C] at all noise levels, [S, ...].

    Its noise is keyed by (sample_id, S, level).
    """
    num = len(levels)
    noise = [philox_normal(latents.shape, key=("eval", sample_id, num, level)) for level in range(num)]
    of_sample = {LATENTS: latents[None], **pad_captions([caption], padding)}
    return MicroBatch(
        {
            **{name: tensor.expand(num, *tensor.shape[1:]) for name, tensor in of_sample.items()},
            "noise": torch.stack(noise),
            "sigma": torch.tensor(levels, dtype=torch.float32),
        }
    )
