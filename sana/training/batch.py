"""One micro batch: what it reads, the random numbers of its samples, and their losses.

Every draw is keyed by (seed, step, position in the global batch), so neither the number of ranks nor the micro batch
size nor a restart changes it. Shapes: B samples of one rank's micro batch; a latent is [B, 16, f, h, w].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sana.config.objective import LogitNormalSampling, TimestepSampling
from sana.config.train import TrainConfig
from sana.data.epoch import Cursor
from sana.data.loader import LATENTS, Reader
from sana.errors import ConfigError
from sana.model.objective import flow_matching_loss, noise_latents, sigmas, timesteps_of, velocity_target
from sana.model.random import philox_normal, philox_uniform
from sana.model.text import pad
from sana.model.transformer import predict


class Slot(NamedTuple):
    """A place in a step's global batch, and the row that stands there."""

    step: int  # optimizer steps done before
    position: int  # in the global batch
    row: int


class MicroBatch(NamedTuple):
    latents: Tensor  # [B, 16, f, h, w], normalised; in the stored dtype until it is on the device, there float32
    noise: Tensor  # float32, of the same shape
    sigma: Tensor  # float32 [B] in (0, 1)
    captions: Tensor  # [B, L, C] in the stored dtype, zeros after the end
    mask: Tensor  # int64 [B, L], 1 for a real token

    def to(self, device: torch.device) -> "MicroBatch":
        """Move to where the model is, and widen the latents there: less to move, and the CPU is slow at it."""
        moved = MicroBatch(*(tensor.to(device, non_blocking=True) for tensor in self))
        return moved._replace(latents=moved.latents.float())


@dataclass(frozen=True)
class Share:
    """Which positions of each global batch a rank takes, and in micro batches of which size.

    Raises:
        ConfigError: the global batch does not divide among the ranks (there may be more than the config knows of).
    """

    global_batch_size: int
    micro_batch_size: int
    rank: int
    num_ranks: int

    def __post_init__(self) -> None:
        per_pass = self.num_ranks * self.micro_batch_size
        if self.global_batch_size % per_pass:
            raise ConfigError(
                f"train.global_batch_size {self.global_batch_size} is not a multiple of {self.num_ranks} ranks x "
                f"micro_batch_size {self.micro_batch_size}; use {-(-self.global_batch_size // per_pass) * per_pass}"
            )

    @property
    def num_micro_batches(self) -> int:
        return self.global_batch_size // (self.num_ranks * self.micro_batch_size)

    def slots(self, cursor: Cursor, first_step: int, end_step: int) -> Iterator[list[Slot]]:
        """Give this rank's micro batches of steps `first_step` to `end_step - 1`, in order."""
        start = self.rank * self.num_micro_batches * self.micro_batch_size
        for step in range(first_step, end_step):
            rows = cursor.batch(step)
            for micro in range(self.num_micro_batches):
                begin = start + micro * self.micro_batch_size
                positions = range(begin, begin + self.micro_batch_size)
                yield [Slot(step, position, int(rows[position])) for position in positions]


def prepare(slots: list[Slot], *, reader: Reader, config: TrainConfig, flow_shift: float) -> MicroBatch:
    """Read and draw one micro batch, on the CPU: the work of a prefetch thread.

    `flow_shift` is the shift of noise levels: that of the config, or of the checkpoint where that is `checkpoint`.
    """
    read = reader.read_batch([(slot.row, _choose_caption(slot, reader, config)) for slot in slots])
    latents, texts = read.tensors[LATENTS], read.captions
    shape = latents.shape[1:]
    uniform = torch.cat([philox_uniform([1], key=_key(slot, config, "sigma")) for slot in slots])
    captions, mask = pad(texts)
    return MicroBatch(
        latents=latents,
        noise=torch.stack([philox_normal(shape, key=_key(slot, config, "noise")) for slot in slots]),
        sigma=_levels(config.timestep_sampling, uniform, flow_shift),
        captions=captions,
        mask=mask,
    )


def losses_of(transformer: nn.Module, batch: MicroBatch) -> Tensor:
    """Return each sample's flow matching loss: float32 [B]."""
    noisy = noise_latents(batch.latents, batch.noise, batch.sigma)
    velocity = predict(transformer, noisy, timesteps_of(batch.sigma), batch.captions, batch.mask)
    return flow_matching_loss(velocity, velocity_target(batch.latents, batch.noise))


def _levels(sampling: TimestepSampling, uniform: Tensor, flow_shift: float) -> Tensor:
    normal = {"mean": sampling.mean, "std": sampling.std} if isinstance(sampling, LogitNormalSampling) else {}
    return sigmas(sampling.name, uniform, shift=flow_shift, **normal)


def _choose_caption(slot: Slot, reader: Reader, config: TrainConfig) -> int | None:
    """Return which of the row's captions is used, each with equal chance; None: the null caption (dropout)."""
    if _uniform(slot, config, "caption_dropout") < config.caption_dropout:
        return None
    return int(_uniform(slot, config, "caption") * reader.num_captions(slot.row))


def _uniform(slot: Slot, config: TrainConfig, purpose: str) -> float:
    return philox_uniform([1], key=_key(slot, config, purpose)).item()


def _key(slot: Slot, config: TrainConfig, purpose: str) -> tuple[str | int, ...]:
    return "train", config.seed, slot.step, slot.position, purpose
