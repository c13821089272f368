"""Which part of a latent a condition gives clean: drawn for one sample, token by token.

Shapes in this module: a latent is [16, f, h, w]; a token of the model covers 2 x 2 of it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sana.bucket import PATCH
from sana.config.training.conditions import (
    ConditionConfig,
    ExtendCondition,
    ImageToVideoCondition,
    InpaintCondition,
    InpaintMaskCondition,
)
from sana.model.random import philox_uniform

Key = tuple[str | int, ...]
_WHITE = 0.5  # a gray edge belongs to the side that it is nearer to
_DRAWS_PER_BOX = 6  # height, width, top, left; length and start of its frames


def draw_clean(
    condition: ConditionConfig, latent_shape: tuple[int, int, int], *, key: Key, mask: Tensor | None = None
) -> Tensor | None:
    """Draw what is given clean of a latent [16, f, h, w], of which `latent_shape` is f, h, w: bool [1, f, h, w].

    `mask`, [1, f, h, w] in [0, 1], is the clip's own, for a condition that looks inside it. What is given is equal
    within a token, and neither all of the sample nor nothing. None: the condition does not apply, as to a sample of one
    frame that has none left to learn, or to boxes that happen to cover all.
    """
    frames, height, width = latent_shape
    clean = torch.zeros(frames, height // PATCH, width // PATCH, dtype=torch.bool)
    if isinstance(condition, ImageToVideoCondition):
        clean[:1] = True
    elif isinstance(condition, ExtendCondition):
        num = _num_frames(condition, frames, key)
        clean[slice(num) if condition.side == "prefix" else slice(frames - num, frames)] = True
    else:
        if isinstance(condition, InpaintMaskCondition):
            assert mask is not None  # a config that asks for it has masks
            region = _white(mask)
        else:
            region = _boxes(condition, clean.shape, key)
        clean = ~region if condition.learn == "inside" else region
    if clean.all() or not clean.any():
        return None
    return clean.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[None]


def _num_frames(condition: ExtendCondition, num_latent_frames: int, key: Key) -> int:
    """Return how many latent frames are given: evenly drawn from the range, and at least one is left."""
    most = min(condition.max_latent_frames, num_latent_frames - 1)
    least = min(condition.min_latent_frames, most)
    uniform = philox_uniform([1], key=(*key, "frames")).item()
    return least + int(uniform * (most - least + 1))


def _white(mask: Tensor) -> Tensor:
    """Return the tokens with a latent pixel that is white for the most part: bool [f, h / 2, w / 2]."""
    frames, height, width = mask.shape[1:]
    return mask.float().reshape(frames, height // PATCH, PATCH, width // PATCH, PATCH).amax((2, 4)) >= _WHITE


def _boxes(condition: InpaintCondition, shape: torch.Size, key: Key) -> Tensor:
    """Return the region of the boxes: bool [f, h / 2, w / 2], the tokens of a latent."""
    uniforms = iter(philox_uniform([1 + _DRAWS_PER_BOX * condition.max_boxes], key=(*key, "boxes")).tolist())
    region = torch.zeros(shape, dtype=torch.bool)
    for _ in range(1 + int(next(uniforms) * condition.max_boxes)):
        rows, columns = (_size(condition, side, uniforms) for side in shape[1:])
        top, left = (
            int(next(uniforms) * (side - size + 1)) for side, size in zip(shape[1:], (rows, columns), strict=True)
        )
        length, start = 1 + int(next(uniforms) * shape[0]), next(uniforms)
        first = int(start * (shape[0] - length + 1))
        run = slice(first, first + length) if condition.frames == "run" else slice(None)
        region[run, top : top + rows, left : left + columns] = True
    return region


def _size(condition: InpaintCondition, side: int, uniforms: Iterator[float]) -> int:
    part = condition.min_size + next(uniforms) * (condition.max_size - condition.min_size)
    return min(side, max(1, math.floor(part * side + 0.5)))
