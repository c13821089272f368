"""Training without data: the trainer's own step on made-up batches and random weights, for measurements.

Shapes in this module: B samples of a micro batch, L caption tokens, C channels of the text encoder; a latent is
[B, 16, f, h, w].
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sana import metrics as m
from sana.bucket import Bucket
from sana.config.training.optimization.parameter_names import names_within
from sana.config.training.train import TrainConfig
from sana.costs.features import FeatureSizes, feature_shape
from sana.data.loading.loader import FEATURES, LATENTS
from sana.model.random_weights import random_transformer
from sana.model.transformer import DTYPES
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.compute.blocks import prepare_blocks
from sana.training.objectives.masked_loss import LOSS_MASK
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from sana.training.regularizers.registry import build_regularizers
from sana.training.state import TrainState
from sana.training.train_step import StepMetrics, TrainStep
from sana.training.trainables.registry import build_trainable

_FLOW_SHIFT = 3.0  # of the noise levels: it changes no cost
_FEATURES, _TOKENS_PER_CELL = FeatureSizes(1536, 14), 2  # of the default encoder, on the default grid


@dataclass(frozen=True)
class StepTimes:
    """Seconds of the steps of a measurement: the first, which compiles and allocates, and the fastest after it."""

    first_s: float
    step_s: float


class SyntheticModel:
    """A transformer with random weights as the trainer calls it; `num_layers` in place of those of its config.

    `bucket` is the largest that it trains on; without one nothing is kept for a backward pass.
    """

    def __init__(
        self,
        config: TrainConfig,
        transformer_config: Mapping[str, Any],
        *,
        work_dir: Path,
        bucket: Bucket | None = None,
        num_layers: int | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.parallel = Parallel.open(config)
        transformer = random_transformer(
            transformer_config,
            # most of it must never have been on the device with offload, and none in fp32 beside an adapter
            device=torch.device("cpu")
            if config.resources.offload.is_on or config.method.name != "full"
            else self.parallel.device,
            dtype=DTYPES[config.weights_dtype],
            num_layers=num_layers,
        )
        self._caption_channels = int(transformer_config["caption_channels"])
        shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
        config = self.config = names_within(config, shapes)
        self.trainable = build_trainable(transformer, config)
        regularizers = build_regularizers(
            _within(config, transformer), self.trainable, feature_size=_FEATURES.hidden_size
        )
        buckets = () if bucket is None else (str(bucket),)
        self.blocks = prepare_blocks(transformer, config, self.parallel, buckets=buckets, work_dir=work_dir)
        self.trainable.model.train()
        self.model = self.parallel.wrap(self.trainable)
        # what rollout adds depends on the step: a plan counts it
        without = config.model_copy(update={"rollout": None})
        self.objective = build_objective(without, flow_shift=_FLOW_SHIFT, regularizers=regularizers)

    @torch.no_grad()
    def measure_forward(self, bucket: Bucket, *, caption_tokens: int) -> float:
        """Return the seconds of a forward pass over one micro batch, as evaluation takes it: the second of two."""
        batch = next(self.batches(bucket, caption_tokens)).to(self.parallel.device)
        self.model.eval()
        for _ in range(2):
            started = time.perf_counter()
            with self.parallel.autocast():
                velocity = self.objective.velocity(self.model, batch)
            velocity.flatten()[0].item()  # waits for the device
            elapsed = time.perf_counter() - started
        self.model.train()
        return elapsed

    def batches(self, bucket: Bucket, caption_tokens: int) -> Iterator[MicroBatch]:
        """Yield one made-up micro batch for ever; captions are as long as they can be."""
        generator = torch.Generator().manual_seed(self.config.seed)
        size = self.config.resources.micro_batch_size
        latents = torch.randn((size, *bucket.latent_shape), generator=generator).half()
        loss_mask = torch.ones(size, 1, *bucket.latent_shape[1:], dtype=torch.float16)
        read = {LATENTS: latents, LOSS_MASK: loss_mask}
        if self.config.crepa is not None:
            shape = feature_shape(bucket, _TOKENS_PER_CELL, _FEATURES)
            read[FEATURES] = torch.randn((size, *shape), generator=generator).half()
        slots = [BatchSlot(0, position, row=0) for position in range(size)]
        drawn = self.objective.draw(slots, read)
        texts = torch.randn(size, caption_tokens, self._caption_channels, generator=generator).bfloat16()
        mask = torch.ones(size, caption_tokens, dtype=torch.int64)
        batch = MicroBatch({**read, **drawn, "captions": texts, "mask": mask})
        return itertools.repeat(batch)


def _within(config: TrainConfig, transformer: Any) -> TrainConfig:
    """Return a config whose CREPA watches a block that there is: a measurement may have fewer of them."""
    if config.crepa is None:
        return config
    index = min(config.crepa.block_index, len(transformer.transformer_blocks) - 1)
    return config.model_copy(update={"crepa": config.crepa.model_copy(update={"block_index": index})})


class SyntheticTraining(SyntheticModel):
    """The trainer's own step over it, on one rank: with EMA and the optimizer's state."""

    def __init__(
        self,
        config: TrainConfig,
        transformer_config: Mapping[str, Any],
        *,
        work_dir: Path,
        bucket: Bucket,
        num_layers: int | None = None,
    ) -> None:
        super().__init__(config, transformer_config, work_dir=work_dir, bucket=bucket, num_layers=num_layers)
        config, self.bucket = self.config, bucket
        self.state = TrainState(self.trainable, config)
        self._step = TrainStep(
            config, self.parallel, self.model, self.state, self.objective, keeps_casts=self.blocks.keeps_casts
        )

    def measure(self, *, caption_tokens: int, num_steps: int = 3) -> StepTimes:
        """Take `num_steps` steps, at least two, of the global batch on its bucket.

        Raises:
            torch.OutOfMemoryError: a step does not fit.
        """
        batches = self.batches(self.bucket, caption_tokens)
        times = []
        for _ in range(num_steps):
            started = time.perf_counter()
            self.take(batches)
            times.append(time.perf_counter() - started)
        return StepTimes(times[0], min(times[1:]))

    def take(self, batches: Iterator[MicroBatch]) -> StepMetrics:
        """Take one step of the global batch, wait for the device, and return what the step measured.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        taken = self._step.take(batches, self.config.global_batch_size // self.config.resources.micro_batch_size)
        float(taken.scalars[m.GRAD_NORM].value)  # waits for the device
        if self.parallel.device.type == "cuda":
            torch.cuda.synchronize()
        return taken
