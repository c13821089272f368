"""Memory for tensors that come and go."""

import math
import weakref
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sana.data.shard import ALIGN_BYTES


class Buffers:
    """Lends memory for tensors, and lends it again when the last view of a tensor is gone. Thread-safe.

    Fresh memory is faulted in page by page, which took longer than reading into it. What is held is at most what was
    in use at once, rounded up to powers of two. It begins on a cache line, as tensors in shards do: a kernel that
    copies to a few bytes past its source's place in a page took four times as long.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by capacity, bytes

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor with whatever was in that memory before."""
        num_bytes = math.prod(shape) * dtype.itemsize
        capacity = 1 << max(num_bytes - 1, 0).bit_length()
        free = self._free[capacity]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(capacity + ALIGN_BYTES, dtype=np.uint8)
            memory = memory[-memory.ctypes.data % ALIGN_BYTES :][:capacity]
        lent = memory[:num_bytes]  # the tensor holds this view, and nothing else does
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(*shape)
