"""One micro batch: which samples it has, what is read of them, and the keys of their random draws.

Every draw is keyed by (seed, step, position in the global batch), so neither the number of ranks nor the micro batch
size nor a restart changes it. Shapes: B samples of one rank's micro batch; a latent is [B, 16, f, h, w].
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import FEATURES, LATENTS, Reader, Samples
from sana.errors import ConfigError
from sana.model.random import philox_uniform
from sana.model.transfers import DeviceCopy
from sana.model.transformer import pad
from sana.runtime.threads import in_threads

# A caption of up to 300 tokens then has one of five lengths, so each bucket is compiled at most five times; a batch
# computes 32 tokens too many on average, only in cross-attention. It does not depend on the longest caption of the data
# set: adding clips changes no bit.
TEXT_MULTIPLE = 64

_Item = TypeVar("_Item")
Draw = Callable[[Sequence["BatchSlot"], Mapping[str, Tensor]], dict[str, Tensor]]


class BatchSlot(NamedTuple):
    """A position in a step's global batch, and the row that is drawn for it."""

    step: int  # optimizer steps done before this one
    position: int  # in the global batch
    row: int

    def key(self, seed: int, purpose: str) -> tuple[str | int, ...]:
        """Return the key of a random draw for this position."""
        return "train", seed, self.step, self.position, purpose


@dataclass(frozen=True)
class MicroBatch:
    """Named tensors of B samples: what was read of them, and what an objective drew for them.

    `latents` [B, 16, f, h, w], normalised, in the stored dtype, on the device float32; `noise`, float32 of the same
    shape; `sigma`, float32 [B] in (0, 1); `captions` [B, L, C] in the stored dtype, zeros after the end; `mask`, int64
    [B, L], 1 for a real token. Other tensors are defined by what reads or draws them.
    """

    tensors: Mapping[str, Tensor]

    @property
    def latents(self) -> Tensor:
        return self.tensors[LATENTS]

    @property
    def noise(self) -> Tensor:
        return self.tensors["noise"]

    @property
    def sigma(self) -> Tensor:
        return self.tensors["sigma"]

    @property
    def captions(self) -> Tensor:
        return self.tensors["captions"]

    @property
    def mask(self) -> Tensor:
        return self.tensors["mask"]

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> "MicroBatch":
        """Move to the device, and make the latents float32 there: less to move, and the CPU is slow at it."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return MicroBatch({**moved, LATENTS: moved[LATENTS].float()})


def cursor_of(config: TrainConfig, samples: Samples) -> Cursor:
    """Return the order in which training takes its samples.

    Raises:
        ConfigError: pictures are to take every n-th step, and there are none, or nothing else.
    """
    try:
        return Cursor(
            samples.bucket_codes,
            samples.draws_per_epoch,
            seed=config.seed,
            batch_size=config.global_batch_size,
            image_every=config.image_every,
            is_image=np.array([Bucket.parse(name).num_frames == 1 for name in samples.buckets]),
        )
    except ValueError as error:
        raise ConfigError(f"train.image_every is {config.image_every}, but {error}; remove it, or add clips") from error


@dataclass(frozen=True)
class RankPartition:
    """The positions of each global batch that a rank takes, and the size of its micro batches.

    Raises:
        ConfigError: the global batch does not divide among the ranks, of which torchrun may have started others.
    """

    global_batch_size: int
    micro_batch_size: int
    rank: int
    num_ranks: int

    def __post_init__(self) -> None:
        at_once = self.num_ranks * self.micro_batch_size
        if self.global_batch_size % at_once:
            raise ConfigError(
                f"train.global_batch_size {self.global_batch_size} is not a multiple of {self.num_ranks} ranks x "
                f"micro_batch_size {self.micro_batch_size}; use {-(-self.global_batch_size // at_once) * at_once}"
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro batches of a rank per optimizer step."""
        return self.global_batch_size // (self.num_ranks * self.micro_batch_size)

    def slots(self, cursor: Cursor, first_step: int, end_step: int) -> Iterator[list[BatchSlot]]:
        """Yield this rank's micro batches of steps `first_step` to `end_step - 1`, in order."""
        start = self.rank * self.num_micro_batches * self.micro_batch_size
        for step in range(first_step, end_step):
            rows = cursor.batch(step)
            for micro in range(self.num_micro_batches):
                begin = start + micro * self.micro_batch_size
                positions = range(begin, begin + self.micro_batch_size)
                yield [BatchSlot(step, position, int(rows[position])) for position in positions]


def prepare(slots: list[BatchSlot], *, reader: Reader, config: TrainConfig, draw: Draw) -> MicroBatch:
    """Read one micro batch, and draw what its objective needs, on the CPU; a prefetch thread calls it."""
    wanted = [(slot.row, _choose_caption(slot, reader, config)) for slot in slots]
    samples = reader.read_batch(wanted, without=_unused(slots, config))
    drawn = draw(slots, samples.tensors)
    return MicroBatch({**samples.tensors, **drawn, **pad_captions(samples.captions, config.text_padding)})


def _unused(slots: list[BatchSlot], config: TrainConfig) -> Collection[str]:
    """Return the names of tensors that these steps do not need, which are larger than all others together."""
    crepa = config.crepa
    return (FEATURES,) if crepa is not None and crepa.is_over(slots[0].step) else ()


def read_ahead(
    read: Callable[[_Item], MicroBatch], items: Iterable[_Item], device: torch.device, *, num_ahead: int
) -> Generator[MicroBatch, None, None]:
    """Yield the batch of each item on the device, in order; so many are read ahead, each in a thread.

    A GPU gets them from pinned memory on a stream of its own, while it computes. `MicroBatch.to` is left to the caller,
    and on a CPU has nothing to do then.
    """

    def copy(item: _Item) -> DeviceCopy:
        batch = read(item)
        # here it is one of several threads that makes latents float32; a GPU is faster, and gets half the bytes
        return DeviceCopy((batch if device.type == "cuda" else batch.to(device)).tensors, device)

    with closing(in_threads(copy, items, num_threads=num_ahead, num_ahead=num_ahead)) as copies:
        yield from map(_on_device, copies)  # which keeps none of them


def _on_device(copy: DeviceCopy) -> MicroBatch:
    return MicroBatch(copy.take())


def pad_captions(captions: list[Tensor], padding: Literal["batch", "fixed"]) -> dict[str, Tensor]:
    """Return `captions` and `mask` of a batch, padded to its longest caption, or to the next of a few fixed lengths."""
    longest = max(len(caption) for caption in captions)
    length = -(-longest // TEXT_MULTIPLE) * TEXT_MULTIPLE if padding == "fixed" else longest
    embeds, mask = pad(captions, length=length)
    return {"captions": embeds, "mask": mask}


def _choose_caption(slot: BatchSlot, reader: Reader, config: TrainConfig) -> int | None:
    """Return which of the row's captions is used, each with equal chance; None: the null caption (dropout)."""
    if _uniform(slot, config, "caption_dropout") < config.caption_dropout:
        return None
    return int(_uniform(slot, config, "caption") * reader.num_captions(slot.row))


def _uniform(slot: BatchSlot, config: TrainConfig, purpose: str) -> float:
    return philox_uniform([1], key=slot.key(config.seed, purpose)).item()
