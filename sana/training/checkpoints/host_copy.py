"""A copy of the training state in the host's memory, for a checkpoint to be written while training goes on."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sana.model.device import out_of_memory_explained
from sana.model.offload.host_memory import HostMemory


class StateCopy:
    """Host memory for the tensors of one checkpoint: allocated once, and pinned where they are on a GPU.

    Copies from a GPU are queued behind the step on the current stream, so the next step cannot change what they read
    and the host does not wait for them; `wait` does, from any thread.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._memory = {pinned: HostMemory(pinned=pinned) for pinned in (False, True)}
        self._copied: torch.cuda.Event | None = None

    @property
    def num_bytes(self) -> int:
        """The bytes of the tensors that it has room for."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def allocate(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate memory for tensors like these, if there is none yet: pinning 33 GB takes seconds."""
        for name, tensor in tensors.items():
            self._buffer(name, tensor)

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """Start to copy a tensor, and return the copy; the one before of this name is overwritten."""
        buffer = self._buffer(name, tensor)
        buffer.copy_(tensor.detach(), non_blocking=True)
        return buffer

    def record(self) -> None:
        """Note that all copies of this checkpoint are queued."""
        if torch.cuda.is_available():
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def wait(self) -> None:
        """Wait until all copies are there."""
        if self._copied is not None:
            self._copied.synchronize()

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        found = self._buffers.get(name)
        if found is None or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            with out_of_memory_explained("train.resources.checkpoint_in_background=false, which copies nothing"):
                found = self._buffers[name] = self._memory[tensor.is_cuda].empty_like(tensor)
        return found
