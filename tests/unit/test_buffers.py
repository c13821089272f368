"""Laws of lent memory: never to two at once, and again when nobody holds it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sana.data.buffers import Buffers

pytestmark = pytest.mark.timeout(60)


def test_memory_is_lent_again_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    first = buffers.empty([2, 3, 5], torch.float16)
    place, view = first.data_ptr(), first[1]
    del first
    assert buffers.empty([30], torch.float16).data_ptr() != place, "a view holds it"
    del view
    again = buffers.empty([3, 10], torch.bfloat16)
    assert again.data_ptr() == place
    assert again.shape == (3, 10) and again.dtype == torch.bfloat16 and again.is_contiguous()


def test_no_two_threads_get_the_same_memory() -> None:
    buffers = Buffers()

    def use(turn: int) -> bool:
        tensor = buffers.empty([1000 + turn % 3], torch.float32)
        tensor.fill_(turn)
        return all(bool((tensor == turn).all()) for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(2000)))
    assert sum(map(len, buffers._free.values())) <= 9, "what was used before was used again"
