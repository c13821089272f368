"""Laws of the EMA weights."""

from typing import Any

import pytest
import torch
from torch import nn

from sana.training.ema import Ema, decay_at

pytestmark = pytest.mark.timeout(60)


def test_the_decay_warms_up_to_its_limit() -> None:
    assert [decay_at(n, 0.9999) for n in (0, 1, 8)] == [0.1, 2 / 11, 0.5]
    assert decay_at(10**6, 0.999) == 0.999
    assert decay_at(0, 0.0) == 0.0


def test_the_shadow_follows_the_formula() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(dict(model.named_parameters()), decay=0.7)
    expected = model.weight.detach().double()
    for n in range(40):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(n)
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert ema.shadow["weight"].dtype == torch.float32
    assert torch.allclose(ema.shadow["weight"].double(), expected, atol=1e-5)


def test_a_decay_of_zero_is_the_live_weights() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(dict(model.named_parameters()), decay=0.0)
    with torch.no_grad():
        model.weight.mul_(3)
    ema.update(5)
    assert torch.equal(ema.shadow["weight"], model.weight)


def test_swapping_in_gives_both_back_bit_for_bit_even_after_an_error() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(dict(model.named_parameters()), decay=0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(3)
    live, shadow = model.weight.detach().clone(), ema.shadow["weight"].clone()
    with pytest.raises(KeyError), ema.swapped_in():
        assert torch.equal(model.weight, shadow)
        raise KeyError
    assert torch.equal(model.weight, live)
    assert torch.equal(ema.shadow["weight"], shadow)
    assert model.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_runs_out_while_weights_are_exchanged_mixes_nothing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanging allocates before it changes the first weight; wherever it fails, live weights are live again."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5), nn.Linear(5, 4)).to(dtype)
    ema = Ema(dict(model.named_parameters()), decay=0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.update(3)
    live = [parameter.detach().clone() for parameter in model.parameters()]
    shadow = [tensor.clone() for tensor in ema.shadow.values()]
    for allocates in ("empty", "clone", "empty_like", "zeros"):
        real, calls = getattr(torch.Tensor if allocates == "clone" else torch, allocates), []

        def failing(*args: Any, real: Any = real, calls: list[int] = calls, **named: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) > 1 or allocates == "empty":  # noqa: B023 - called within this turn
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor if allocates == "clone" else torch, allocates, failing)
            try:
                with ema.swapped_in():
                    pass
            except torch.cuda.OutOfMemoryError:
                calls.append(1)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), live, strict=True)), allocates
        assert all(torch.equal(a, b) for a, b in zip(ema.shadow.values(), shadow, strict=True)), allocates


def moved(*, on_cpu: bool) -> list[torch.Tensor]:
    """Return the EMA weights after each of ten updates of weights that follow one another."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(300, 300), nn.LayerNorm(300))
    ema = Ema(dict(model.named_parameters()), decay=0.9, on_cpu=on_cpu)
    after = []
    for n in range(10):
        ema.finish()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(n)
        if n % 3 == 0:
            after.append(torch.cat([tensor.flatten() for tensor in ema.shadow.values()]).clone())
    with ema.swapped_in():
        after.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone())
    after.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    return after


def test_on_the_cpu_it_is_the_same_bit_for_bit() -> None:
    for beside, on_cpu in zip(moved(on_cpu=False), moved(on_cpu=True), strict=True):
        assert torch.equal(beside, on_cpu)


def test_an_update_that_failed_beside_training_is_raised() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(dict(model.named_parameters()), decay=0.9, on_cpu=True)
    ema.shadow["weight"].resize_(0)
    ema.update(0)
    with pytest.raises(RuntimeError, match="size"):
        ema.finish()


@pytest.mark.gpu
def test_of_weights_on_a_gpu_it_is_in_pinned_memory_and_one_rounding_off_at_most() -> None:
    model = nn.Linear(512, 512).cuda()
    beside = Ema(dict(model.named_parameters()), decay=0.9)
    on_cpu = Ema(dict(model.named_parameters()), decay=0.9, on_cpu=True)
    for n in range(10):
        on_cpu.finish()
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        beside.update(n)
        on_cpu.update(n)
    found = on_cpu.shadow["weight"]
    assert found.is_pinned() and not found.is_cuda
    assert torch.allclose(found, beside.shadow["weight"].cpu(), rtol=1e-6, atol=1e-6)
