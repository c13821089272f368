"""Which rank writes which tensor of a checkpoint, and what ranks tell each other about it."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from sana.training.parallel.distributed import COLLECTIVE_TIMEOUT

T = TypeVar("T")


def owners(tensors: Mapping[str, Tensor], num_ranks: int) -> dict[str, int]:
    """Return the rank that owns each tensor: neighbours in the order given, about equal bytes for every rank.

    The same on all ranks, which know the same names and whole shapes.
    """
    total = sum(_num_bytes(tensor) for tensor in tensors.values()) or 1
    owned, before = {}, 0
    for name, tensor in tensors.items():
        middle = before + _num_bytes(tensor) // 2
        owned[name] = min(middle * num_ranks // total, num_ranks - 1)
        before += _num_bytes(tensor)
    return owned


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()  # of the whole tensor, also where a rank holds a part of it


def file_name(part: str, rank: int, num_ranks: int) -> str:
    """Return the name of the file of a rank's tensors: `weights.safetensors`, or `weights-00001-of-00002...`."""
    return f"{part}.safetensors" if num_ranks == 1 else f"{part}-{rank + 1:05d}-of-{num_ranks:05d}.safetensors"


class RankExchange:
    """Small messages between ranks, by a group of its own on the CPU: a thread may use it beside the step's exchange.

    All methods are collective; made on all ranks at the same point.
    """

    def __init__(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self._group = torch.distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if num_ranks > 1 else None

    def from_main(self, text: str) -> str:
        """Return rank 0's text."""
        if self._group is None:
            return text
        texts = [text]
        torch.distributed.broadcast_object_list(texts, src=0, group=self._group)
        return texts[0]

    def to_main(self, mine: T) -> list[T]:
        """Return, on rank 0, what each rank has, in the order of ranks; empty on the others."""
        if self._group is None:
            return [mine]
        gathered: list[T] | None = [mine] * self.num_ranks if self.rank == 0 else None
        torch.distributed.gather_object(mine, gathered, dst=0, group=self._group)
        return gathered or []

    def to_all(self, mine: T) -> list[T]:
        """Return what each rank has, in the order of ranks."""
        if self._group is None:
            return [mine]
        gathered = [mine] * self.num_ranks
        torch.distributed.all_gather_object(gathered, mine, group=self._group)
        return gathered
