"""Batches read ahead: in order, on the device, and no more of them than was asked for."""

import threading
from contextlib import closing

import pytest
import torch

from sana.errors import SanaError
from sana.training.batch import MicroBatch, read_ahead

CPU = torch.device("cpu")
NUM_BATCHES = 12


def batch_of(number: int, size: int = 4) -> MicroBatch:
    shape = (2, 16, 3, size, size)
    generator = torch.Generator().manual_seed(number)
    return MicroBatch(
        {
            "latents": torch.randn(shape, generator=generator).half(),
            "noise": torch.randn(shape, generator=generator),
            "sigma": torch.rand(2, generator=generator),
            "captions": torch.randn(2, 5, 8, generator=generator).bfloat16(),
            "mask": torch.ones(2, 5, dtype=torch.int64),
        }
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_each_batch_is_what_was_read_and_in_order(device: str) -> None:
    """On a GPU sums are launched at once, so they are right only if they wait for the copies, and keep their memory."""
    size, sums = (256 if device == "cuda" else 4), []
    batches = read_ahead(lambda number: batch_of(number, size), range(NUM_BATCHES), torch.device(device), num_ahead=3)
    for batch in batches:
        batch = batch.to(torch.device(device))
        assert batch.latents.dtype == torch.float32 and batch.captions.dtype == torch.bfloat16
        assert {tensor.device.type for tensor in batch.tensors.values()} == {device}
        sums.append(torch.stack([tensor.double().sum() for tensor in batch.tensors.values()]))
        del batch  # its memory may be used by the next copies
    for number, sum_ in enumerate(sums):
        tensors = batch_of(number, size).tensors.values()
        expected = torch.stack([tensor.to(device).double().sum() for tensor in tensors])
        assert torch.equal(sum_, expected), number


def test_a_cpu_moves_nothing_more_when_the_step_takes_a_batch() -> None:
    batch = next(read_ahead(batch_of, [0], CPU, num_ahead=1))
    for name, tensor in batch.to(CPU).tensors.items():
        assert tensor is batch.tensors[name]


def test_what_is_read_is_bounded_and_errors_come_where_the_batch_would_have() -> None:
    begun: list[int] = []
    third_begun = threading.Event()

    def read(number: int) -> MicroBatch:
        begun.append(number)
        if number == 2:
            third_begun.set()
            raise SanaError("sample 2 is damaged")
        return batch_of(number)

    with closing(read_ahead(read, range(NUM_BATCHES), CPU, num_ahead=2)) as batches:
        next(batches)
        assert third_begun.wait(5) and max(begun) <= 2
        next(batches)
        with pytest.raises(SanaError, match="damaged"):
            next(batches)
    assert len(begun) <= 5
