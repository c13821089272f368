"""A captured forward is used only where it gives the same bits; what cannot be captured runs as it is."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sana.model.cuda_graph import Replayed
from sana.model.text import TextEncoder

pytestmark = pytest.mark.timeout(60)


def double(x: Tensor) -> Tensor:
    return x * 2


def faithful(forward: Callable[..., Tensor], _inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return lambda *inputs: forward(*inputs)


def off_by_a_bit(forward: Callable[..., Tensor], _inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return lambda *inputs: torch.nextafter(forward(*inputs), torch.tensor(9.0))


def failing(_forward: Callable[..., Tensor], _inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    ("capture", "told"),
    [
        (faithful, ""),
        (off_by_a_bit, "slower: a CUDA graph of it gives other bits"),
        (failing, "slower: it cannot be a CUDA graph: CUDA error: operation not permitted when stream is capturing"),
    ],
)
def test_a_graph_that_differs_or_fails_is_not_used(
    capture: Callable[..., Callable[..., Tensor]], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    replayed, x = Replayed(double, capture=capture), torch.ones(3)
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(replayed(x * number), x * number * 2) for number in range(1, 5))
        assert [record.getMessage().partition("which is ")[2] for record in caplog.records] == ([told] if told else [])


def test_a_shape_is_captured_with_its_second_call_and_at_most_sixteen_are() -> None:
    captured: list[int] = []

    def capture(forward: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        captured.append(len(inputs[0]))
        return faithful(forward, inputs)

    replayed = Replayed(double, capture=capture)
    for length in (1, 2, 1, 1, 2):
        replayed(torch.ones(length))
    assert captured == [1, 2]
    for length in [*range(30)] * 2:
        replayed(torch.ones(length))
    assert len(captured) == 16


@pytest.mark.gpu
def test_captions_have_the_same_bits_by_a_graph(tiny_model: Path) -> None:
    encoder, plain = (TextEncoder.load(str(tiny_model), device="cuda") for _ in range(2))
    texts = [f"a {'very ' * number}small cat" for number in range(6)]
    for text in [*texts, "word " * 400]:  # the last one fills all tokens
        made = encoder.encode([text], template="video")[0].tokens
        plain._forward._num_calls.clear()  # so that it never captures
        assert torch.equal(made, plain.encode([text], template="video")[0].tokens)
    assert len(encoder._forward._graphs) == 1 and not plain._forward._graphs
    assert next(iter(encoder._forward._graphs.values())) != encoder._run  # it could be captured
