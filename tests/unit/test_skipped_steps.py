"""A skipped step is no step: for every optimizer of the registry, and for torch's fused kernels, bit for bit."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.training.ema import Ema
from sana.training.guards.loss_spikes import MIN_STEPS, LossSpikes
from sana.training.guards.skipped_steps import SkippedSteps, put_back
from sana.training.optimizers.optimizer import STEP, Optimizer, Parameters, Setup, decay_groups
from sana.training.optimizers.registry import OPTIMIZERS, build_optimizer
from sana.training.state import TrainState

pytestmark = pytest.mark.timeout(60)

CPU = torch.device("cpu")
BAD = (1, 3)  # of STEPS, counted from 0
STEPS = 6


def config_of(optimizer: str, **settings: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "max_steps": STEPS,
            "global_batch_size": 1,
            "optimizer": {"name": optimizer, **({"matrices": "*"} if optimizer == "muon" else {})},
            "max_skipped_steps": 5,
            "ema_decay": 0.9,
            **settings,
        }
    )


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (24, 16), "bias": (16,), "kernel": (8, 4, 3, 3), "scale_shift_table": (2, 16)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def gradient_at(number: int, parameter: nn.Parameter, name: str) -> Tensor:
    generator = torch.Generator().manual_seed(100 * number + len(name))
    return torch.randn(parameter.shape, generator=generator)


def trained(state: TrainState, bad: tuple[int, ...], rate: Callable[[int], float]) -> dict[str, Tensor]:
    """Take STEPS steps, those of `bad` with one number of a gradient that is not finite; return the whole state."""
    taken = 0
    for step in range(STEPS):
        norm = torch.tensor(1.0)
        for name, parameter in state.parameters.items():
            parameter.grad = gradient_at(taken, parameter, name)
        if step in bad:
            next(iter(state.parameters.values())).grad[0, 0] = float("nan")  # type: ignore[index]
            norm = torch.tensor(float("nan"))
        else:
            taken += 1
        assert state.skipped is not None
        state.advance(rate(step), state.skipped.decide(torch.tensor(0.5), norm))
    return {f"{part}/{name}": tensor.clone() for part, named in state.parts().items() for name, tensor in named.items()}


def short(state: TrainState, num_steps: int) -> dict[str, Tensor]:
    """Take the good steps alone."""
    for step in range(num_steps):
        for name, parameter in state.parameters.items():
            parameter.grad = gradient_at(step, parameter, name)
        state.advance(1e-2)
    return {f"{part}/{name}": tensor.clone() for part, named in state.parts().items() for name, tensor in named.items()}


def state_of(optimizer: str, **settings: Any) -> TrainState:
    trainable: Any = SimpleNamespace(parameters=parameters(), fixed={}, model=nn.Identity())
    return TrainState(trainable, config_of(optimizer, **settings))


def assert_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor.view(torch.uint8), b[name].view(torch.uint8)), name


@pytest.mark.parametrize("ema_device", ["auto", "cpu"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_skipped_steps_is_the_run_without_them(name: str, ema_device: str) -> None:
    """At one learning rate: weights, moments and EMA of the steps that were taken, and their bias corrections."""
    resources = {"resources": {"ema_device": ema_device}}
    with_bad = trained(state_of(name, **resources), BAD, lambda _: 1e-2)
    assert with_bad.pop("optimizer/skipped_steps").item() == len(BAD)
    assert_bits(with_bad, short(state_of(name, max_skipped_steps=0, **resources), STEPS - len(BAD)))


def fused_adamw(_: Any, named: Parameters, _setup: Setup) -> Optimizer:
    """As on a GPU; torch has the same kernels for the CPU."""
    optimizer = torch.optim.AdamW(decay_groups(named, 0.1), fused=True)
    for parameter in named.values():
        moments = {moment: torch.zeros_like(parameter).detach() for moment in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {STEP: torch.zeros(()), **moments}
    return Optimizer(optimizer, named)


def test_fused_kernels_skip_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "adamw", fused_adamw)
    monkeypatch.setattr("sana.training.optimizers.optimizer.put_back", None)  # it must not be needed
    with_bad = trained(state_of("adamw"), BAD, lambda _: 1e-2)
    assert with_bad.pop("optimizer/skipped_steps").item() == len(BAD)
    assert_bits(with_bad, short(state_of("adamw", max_skipped_steps=0), STEPS - len(BAD)))


def test_every_optimizer_of_the_config_is_tried() -> None:
    sections = get_args(get_args(TrainConfig.model_fields["optimizer"].annotation)[0]) or get_args(
        TrainConfig.model_fields["optimizer"].annotation
    )
    names = {get_args(section.model_fields["name"].annotation)[0] for section in sections}
    assert names == set(OPTIMIZERS)
    assert all(build_optimizer(config_of(name), parameters()) for name in names)


@pytest.mark.parametrize(
    ("loss", "norm", "skipped"),
    [(1.0, 1.0, False), (float("nan"), 1.0, True), (1.0, float("inf"), True), (float("-inf"), float("nan"), True)],
)
def test_a_loss_or_a_norm_that_is_not_finite_decides(loss: float, norm: float, skipped: bool) -> None:
    steps = SkippedSteps(CPU)
    assert steps.decide(torch.tensor(loss), torch.tensor(norm)).item() is skipped
    assert steps.num_before == 0  # of this step it is not known yet, and not asked for
    steps.decide(torch.tensor(1.0), torch.tensor(1.0))
    assert (steps.num_before, steps.count.item()) == (skipped, skipped)


def test_what_is_put_back_has_its_bits_negative_zeros_and_nan_payloads_too() -> None:
    before = torch.tensor([-0.0, 0.0, float("nan"), 1.5])
    tensor = before.clone()
    with put_back(torch.tensor(True), [tensor]):
        tensor.add_(1.0)
    assert torch.equal(tensor.view(torch.uint8), before.view(torch.uint8))
    with put_back(torch.tensor(False), [tensor]):
        tensor.add_(1.0)
    assert tensor[3] == 2.5


def test_the_average_keeps_negative_zeros_in_a_skipped_step() -> None:
    weight = nn.Parameter(torch.tensor([-0.0, 1.0]))
    ema = Ema({"w": weight}, 0.9)
    ema.update(0, torch.tensor(True))
    assert torch.signbit(ema.shadow["w"][0])


@pytest.mark.parametrize(
    ("losses", "threshold", "spikes"),
    [
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [5.0], 10.0, [30]),
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [5.0], 0.0, []),  # off
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [1.3], 10.0, []),  # noise
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [0.0], 10.0, []),  # below
        ([1.0, 1.1, 0.9] * 6 + [5.0], 10.0, []),  # the level is not known yet: 18 steps
        ([1.0] * 30 + [1.05, 1.2], 10.0, [31]),  # equal losses have a spread of one per cent of them
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [5.0, 5.0, 5.0, 1.0, 5.0], 10.0, [30, 31, 32, 34]),  # spikes hide none
        ([1.0, 1.1, 0.9, 1.05, 0.95] * 6 + [5.0 + i % 3 / 10 for i in range(60)], 10.0, list(range(30, 60))),  # a level
        ([0.0] * 30 + [1e-6], 10.0, [30]),
    ],
)
def test_a_loss_far_above_its_level_is_a_spike(losses: list[float], threshold: float, spikes: list[int]) -> None:
    alarm = LossSpikes(threshold)
    assert [i for i, loss in enumerate(losses) if alarm.look(loss)] == spikes


def test_a_restart_remembers_the_level() -> None:
    alarm = LossSpikes(10.0)
    alarm.remember([1.0, 1.1, 0.9, 1.0] * (MIN_STEPS // 4))
    spike = alarm.look(5.0)
    assert spike is not None and spike.level == 1.0 and spike.deviation > 10
