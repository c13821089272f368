"""Blocks' weights in the host's memory, their copies on the device while they are needed, and their gradients.

The same code runs with the CPU as the device: a copy is then a clone, and streams and pinned memory are left out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sana.model.offload.host_memory import HostMemory

Masters = Mapping[str, nn.Parameter]  # of one block, by their names in it; in the host's memory


class _Copies(NamedTuple):
    """One group's weights on the device, by block and name; `ready` on a GPU when they have arrived."""

    of_blocks: dict[int, dict[str, Tensor]]
    ready: torch.cuda.Event | None


class BlockWeights:
    """Copies groups of `blocks_per_group` consecutive blocks to the device.

    It holds one group, and with `ahead` the next one, which a stream of its own copies while the first computes. What
    autograd still needs of a group that is dropped lives until its backward pass is done.
    """

    def __init__(
        self, blocks: Sequence[Masters], device: torch.device, *, blocks_per_group: int = 1, ahead: bool = False
    ) -> None:
        self._blocks, self._device = blocks, device
        self._groups = [
            range(first, min(first + blocks_per_group, len(blocks)))
            for first in range(0, len(blocks), blocks_per_group)
        ]
        self._blocks_per_group, self._ahead = blocks_per_group, ahead
        self._stream = _stream(device) if ahead else None
        self._held: dict[int, _Copies] = {}
        self._last = -1  # the block that was asked for last

    def begin(self) -> None:
        """Drop all copies, since the weights may have changed: called before each forward pass."""
        self._held.clear()
        self._last = -1

    def fetch(self, block: int) -> dict[str, Tensor]:
        """Return the device's copies of a block's weights, and start on the group that comes next.

        Blocks are asked for in order, in a forward pass, and then in reverse where a backward pass recomputes them.
        """
        forwards = block > self._last
        self._last = block
        group = block // self._blocks_per_group
        wanted = {group, group + (1 if forwards else -1)} & set(range(len(self._groups)) if self._ahead else [group])
        for other in set(self._held) - wanted:
            del self._held[other]
        if group not in self._held:
            self._held[group] = self._copy(group)
        copies = self._held[group]
        for other in wanted - set(self._held):
            self._held[other] = self._copy(other)
        weights = copies.of_blocks[block]
        if copies.ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copies.ready)
            for weight in weights.values():
                weight.record_stream(current)  # the copying stream must not take its memory before this one is done
        return weights

    def _copy(self, group: int) -> _Copies:
        if self._stream is None:
            return _Copies({block: self._clones(block) for block in self._groups[group]}, None)
        with torch.cuda.stream(self._stream):
            of_blocks = {block: self._clones(block) for block in self._groups[group]}
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(self._stream)
        return _Copies(of_blocks, ready)

    def _clones(self, block: int) -> dict[str, Tensor]:
        return {
            name: master.detach().to(self._device, non_blocking=True, copy=True)
            for name, master in self._blocks[block].items()
        }


class HostGradients:
    """Gradients that a backward pass computes on the device, moved to the masters' `.grad` as they come.

    On a GPU each master's has its place in pinned memory for good: the optimizer is done with it before the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _stream(device)
        self._memory = HostMemory()
        self._places: dict[nn.Parameter, Tensor] = {}
        self._coming: list[tuple[torch.cuda.Event | None, nn.Parameter, Tensor]] = []

    def send(self, master: nn.Parameter, gradient: Tensor) -> None:
        """Start to move a gradient, which the device frees when it is moved; for a backward pass to call.

        All are in their masters when that pass returns.
        """
        if not self._coming:
            # torch calls it at the end of this backward pass, as its own wrappers of distributed models have it do
            torch.autograd.Variable._execution_engine.queue_callback(self.collect)  # type: ignore[attr-defined]
        if self._stream is None:
            self._coming.append((None, master, gradient.to("cpu", copy=True)))
            return
        host = self._place(master, gradient)
        self._stream.wait_stream(torch.cuda.current_stream(gradient.device))
        with torch.cuda.stream(self._stream):
            host.copy_(gradient, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        gradient.record_stream(self._stream)
        self._coming.append((arrived, master, host))

    def _place(self, master: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return memory for a gradient that becomes the master's, or, where it has one, is added to it."""
        if master.grad is not None:
            return torch.empty(gradient.shape, dtype=gradient.dtype, pin_memory=True)
        if master not in self._places:
            self._places[master] = self._memory.empty_like(gradient)
        return self._places[master]

    @torch.no_grad()
    def collect(self) -> None:
        """Wait for the gradients that are on their way, and add each to its master's."""
        coming, self._coming = self._coming, []
        for arrived, master, gradient in coming:
            if arrived is not None:
                arrived.synchronize()
            if master.grad is None:
                master.grad = gradient
            else:
                master.grad.add_(gradient)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
