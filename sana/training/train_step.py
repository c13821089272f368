"""One optimizer step: the gradients of the global batch, clipped, then the optimizer and the EMA."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sana import metrics as m
from sana.config.training.train import TrainConfig
from sana.errors import ConfigError
from sana.training.batch import MicroBatch
from sana.training.clipping import clip_gradients
from sana.training.compute.compiled_blocks import compile_failure_explained
from sana.training.gauges.gradient_norms import gradient_norms, groups_of
from sana.training.metrics import Scalar, accumulate
from sana.training.objectives.objective import Objective
from sana.training.parallel.parallel import Parallel
from sana.training.schedules import learning_rate_at
from sana.training.state import TrainState


class StepMetrics(NamedTuple):
    """What one step measured."""

    step: int  # steps done, this one included
    scalars: dict[str, Scalar]  # on the device until they are flushed
    numbers: dict[str, float]  # on the host
    caption_tokens: int  # that captions were padded to, in the longest micro batch
    samples: Tensor | None = (
        None  # float32 [2, samples of this rank] on the device: noise levels, losses of the velocity
    )


class TrainStep:
    """Takes the steps of a run; `model` is wrapped for all ranks, and `state` holds what it learns.

    It `keeps_casts` of weights from one micro batch of a step to the next.

    Raises:
        ConfigError: gradients are to be freed in the backward pass, and there are several ranks.
    """

    def __init__(
        self,
        config: TrainConfig,
        parallel: Parallel,
        model: nn.Module,
        state: TrainState,
        objective: Objective,
        *,
        keeps_casts: bool = False,
    ) -> None:
        self._config, self._parallel, self._model = config, parallel, model
        self._state, self._objective = state, objective
        self._keeps_casts = keeps_casts
        self._groups = groups_of(state.parameters)
        if state.release is not None and parallel.num_ranks > 1:
            raise ConfigError(
                f"train.resources.fused_backward works with one rank, but {parallel.num_ranks} were started: their "
                "gradients are exchanged before a step; set it to false, or start one"
            )

    def take(self, batches: Iterator[MicroBatch], num_micro_batches: int) -> StepMetrics:
        """Take one optimizer step on the mean loss of the global batch, of which this rank has so many parts."""
        step, data_wait_s, caption_tokens = self._state.step, 0.0, 0
        learning_rate = learning_rate_at(step, self._config)
        scalars: dict[str, Scalar] = {}
        samples: list[Tensor] = []
        with self._parallel.casts_once() if self._keeps_casts and num_micro_batches > 1 else nullcontext():
            for micro in reversed(range(num_micro_batches)):
                wait_started = time.perf_counter()
                batch = next(batches)
                data_wait_s += time.perf_counter() - wait_started
                caption_tokens = max(caption_tokens, batch.captions.shape[1])
                with self._parallel.gradients(self._model, exchanged=micro == 0):
                    samples.append(self._backward(batch.to(self._parallel.device), scalars, learning_rate))
        release = self._state.release
        if (step + 1) % self._config.resources.log_every == 0:
            scalars |= gradient_norms(release.grad_norm if release else self._parallel.grad_norm, self._groups)
        parameters = self._state.parameters.values()
        if release:
            grad_norm = release.grad_norm(parameters)
        else:
            grad_norm = clip_gradients(self._parallel, parameters, self._config)
        skip = None
        if self._state.skipped is not None:
            skip = self._state.skipped.decide(self._parallel.sum(scalars[m.TRAIN_LOSS].value), grad_norm)
            scalars[m.SKIPPED_STEPS] = Scalar(self._state.skipped.count.clone(), "equal")
        self._state.advance(learning_rate, skip)
        scalars[m.GRAD_NORM] = Scalar(grad_norm, "equal")
        numbers = {m.LEARNING_RATE: learning_rate, m.DATA_WAIT_S: data_wait_s}
        return StepMetrics(step + 1, scalars, numbers, caption_tokens, torch.cat(samples, 1))

    def _backward(self, batch: MicroBatch, scalars: dict[str, Scalar], learning_rate: float) -> Tensor:
        """Add a micro batch's gradients, and its scalars to the step's; return its levels and losses, [2, B]."""
        with self._parallel.autocast():
            losses = self._objective.loss(self._model, batch)
            partial_loss = losses.per_sample.sum() / self._config.global_batch_size
        self._state.begin(learning_rate)
        with compile_failure_explained():
            self._parallel.backward(partial_loss)
        measured = {m.TRAIN_LOSS: Scalar(partial_loss, "sum"), **losses.scalars}
        accumulate(scalars, measured, part=len(batch) / self._config.global_batch_size)
        of_velocity = losses.per_sample if losses.of_velocity is None else losses.of_velocity
        return torch.stack([batch.sigma, of_velocity.detach().float()])
