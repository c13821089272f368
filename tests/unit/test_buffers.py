"""Laws of lent memory: never lent twice at once, and reused when its last view is gone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sana.data.loading.buffers import Buffers
from sana.data.shards.shard import ALIGN_BYTES

pytestmark = pytest.mark.timeout(60)


def test_memory_is_reused_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    first = torch.from_numpy(buffers.lend(60)).view(torch.float16).view(2, 3, 5)
    address, view = first.data_ptr(), first[1]
    del first
    assert buffers.lend(60).ctypes.data != address, "a view holds it"
    del view
    assert buffers.lend(59).ctypes.data == address


def test_memory_begins_on_a_cache_line() -> None:
    buffers = Buffers()
    held = [buffers.lend(size) for size in (1, 100, 4096, 5_000_000)]
    assert [memory.ctypes.data % ALIGN_BYTES for memory in held] == [0] * 4
    assert [len(memory) for memory in held] == [1, 100, 4096, 5_000_000]


def test_no_two_threads_get_the_same_memory() -> None:
    buffers = Buffers()

    def use(turn: int) -> bool:
        memory = buffers.lend(4000 + turn % 3)
        memory[:] = turn % 256
        return all(bool(np.all(memory == turn % 256)) for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(2000)))
    assert sum(map(len, buffers._free.values())) <= 9, "memory was reused"
