"""Host memory for many tensors, pinned where there is a GPU, so that copies run beside computation."""

import torch
from torch import Tensor

BLOCK_BYTES = 2**28  # torch rounds pinned memory up to a power of two: small tensors share blocks of one
_ALIGN_BYTES = 64


class HostMemory:
    """Gives memory for tensors; a block of it goes back when none of its tensors is left.

    `pinned` is for tensors that are copied to or from a GPU; by default where there is one.
    """

    def __init__(self, *, pinned: bool | None = None) -> None:
        self._pinned = torch.cuda.is_available() if pinned is None else pinned
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Return memory for a contiguous tensor of this shape and dtype."""
        return self._take(tensor.nbytes).view(tensor.dtype).reshape(tensor.shape)

    def holding(self, tensor: Tensor) -> Tensor:
        """Return a tensor in this memory; one that is in the host's already, where nothing is pinned, as it is."""
        if not self._pinned:
            return tensor.cpu()
        return self.empty_like(tensor).copy_(tensor)

    def _take(self, num_bytes: int) -> Tensor:
        if not self._pinned:
            return torch.empty(num_bytes, dtype=torch.uint8)
        if num_bytes > BLOCK_BYTES:
            return self._allocate(num_bytes)
        if self._used + num_bytes > len(self._block):
            self._block, self._used = self._allocate(BLOCK_BYTES), 0
        taken = self._block[self._used : self._used + num_bytes]
        self._used += num_bytes + -num_bytes % _ALIGN_BYTES
        return taken

    def _allocate(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
