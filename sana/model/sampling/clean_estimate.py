"""What a sampler takes for the clean latent at each of its steps: x0 = x_t - sigma v.

Previews show it rather than x_t, which is noise for most of the way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Preview(NamedTuple):
    """Who is shown the estimates: `show(steps done, steps, x0)` every so many steps; x0 is float32 [1, 16, f, h, w]."""

    every: int
    show: Callable[[int, int, Tensor], None]


@contextmanager
def observed(scheduler: Any, preview: Preview | None, first_latents: Tensor | None, steps: int) -> Iterator[None]:
    """Show a preview within it; image to video steps the frames after `first_latents` alone, which are shown first."""
    if preview is None:
        yield
        return

    def on_estimate(done: int, x0: Tensor) -> None:
        whole = x0 if first_latents is None else torch.cat([first_latents.to(x0), x0], 2)
        preview.show(done, steps, whole)

    with observing_estimates(scheduler, preview.every, on_estimate):
        yield


@contextmanager
def observing_estimates(scheduler: Any, every: int, on_estimate: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within it `on_estimate` is called at every so-many-th step of a diffusers scheduler of flow matching.

    The step is the scheduler's own, and nothing that it computes is changed. Velocity and level are those that it is
    given, after guidance.
    """
    own, done = scheduler.step, 0

    def step(velocity: Tensor, timestep: Any, x_t: Tensor, *args: Any, **named: Any) -> Any:
        nonlocal done
        sigma = float(scheduler.sigmas[done])
        done += 1
        if done % every == 0:
            on_estimate(done, x_t.float() - sigma * velocity.float())
        return own(velocity, timestep, x_t, *args, **named)

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step  # the class's own is seen again
