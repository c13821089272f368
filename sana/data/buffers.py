"""Memory for tensors that come and go."""

import math
import weakref
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Lends memory for tensors, and lends it again when the last view of a tensor is gone. Thread-safe.

    Fresh memory is faulted in page by page, which took longer than reading into it. What is held is at most what was
    in use at once, rounded up to powers of two.
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
            memory = np.empty(capacity, dtype=np.uint8)
        lent = memory[:num_bytes]  # the tensor holds this view, and nothing else does
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(*shape)
