"""Reused memory for short-lived tensors."""

import weakref
from collections import defaultdict

import numpy as np

from sana.data.shards.shard import ALIGN_BYTES


class Buffers:
    """Lends memory, and reuses it when its last view is gone. Thread-safe.

    New memory is faulted in page by page, which took longer than reading into it. The memory held is at most that in
    use at one time, rounded up to powers of two. It begins on a cache line, as tensors in shards do: a kernel that
    copied to a few bytes past its source's offset in a page took four times as long.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by capacity, bytes

    def lend(self, num_bytes: int) -> np.ndarray:
        """Return uint8 [num_bytes] with undefined content. It is released with its last view."""
        capacity = 1 << max(num_bytes - 1, 0).bit_length()
        free = self._free[capacity]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(capacity + ALIGN_BYTES, dtype=np.uint8)
            memory = memory[-memory.ctypes.data % ALIGN_BYTES :][:capacity]
        lent = memory[:num_bytes]  # only its users hold this view
        weakref.finalize(lent, free.append, memory).atexit = False
        return lent
