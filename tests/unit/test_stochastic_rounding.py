"""Laws of bf16: steps too small for it add up where an optimizer rounds right, and nowhere else."""

import pytest
import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.training.optimizers.adamw_bf16 import round_stochastically
from sana.training.optimizers.registry import build_optimizer
from tests.optimizer_cases import BF16

pytestmark = pytest.mark.timeout(60)


def test_a_number_is_rounded_to_a_neighbour_and_on_average_to_itself() -> None:
    """Between 1 and 2 numbers of bf16 are 2 ** -7 apart; of 65536 draws the mean is off by at most 4 deviations."""
    generator = torch.Generator().manual_seed(3)

    def draws(size: int) -> Tensor:
        return torch.randint(0, 1 << 16, (size,), generator=generator, dtype=torch.int32)

    for number, neighbours in (
        (1.0 + 2**-9, {1.0, 1.0 + 2**-7}),
        (-1.0 - 2**-9, {-1.0, -1.0 - 2**-7}),
        (1.0, {1.0}),
        (0.0, {0.0}),
    ):
        rounded = round_stochastically(torch.full((1 << 16,), number), draws(1 << 16)).float()
        assert set(rounded.unique().tolist()) == neighbours
        assert rounded.mean().item() == pytest.approx(number, abs=4 * 2**-8 / 256)
    assert round_stochastically(torch.tensor([float("inf"), float("nan")]), draws(2)).isfinite().sum() == 0


@pytest.mark.parametrize("name", BF16)
def test_steps_too_small_for_bf16_add_up(name: str) -> None:
    """200 steps of a 2000th of a weight, an eighth of what rounding to nearest needs to move it."""
    parameters = {"w": nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))}
    settings = {"optimizer": {"name": name, "epsilon": 1e-10}, "weights_dtype": "bf16"}
    optimizer = build_optimizer(TrainConfig(max_steps=1, global_batch_size=1, **settings), parameters)
    plain = torch.ones(64, 64, dtype=torch.bfloat16)
    rate = 2.0**-12  # below 1, numbers of bf16 are 2 ** -8 apart
    for _ in range(200):
        parameters["w"].grad = torch.ones_like(plain)
        optimizer.step(rate)
        plain.sub_(rate)
    assert torch.equal(plain, torch.ones_like(plain)), "rounding to nearest loses every step"
    mean = parameters["w"].detach().float().mean().item()
    assert mean == pytest.approx(1 - 200 * rate, abs=0.15 * 200 * rate)


def test_rounding_depends_on_the_seed_and_the_step_alone() -> None:
    def rounded(seed: int, step: int, noise: int) -> Tensor:
        parameters = {"w": nn.Parameter(torch.full((64, 64), 1.001, dtype=torch.bfloat16))}
        made = TrainConfig(max_steps=1, global_batch_size=1, seed=seed, optimizer={"name": "adamw_bf16"})
        optimizer = build_optimizer(made, parameters)
        optimizer.set_step(step)
        torch.manual_seed(noise)
        parameters["w"].grad = torch.ones_like(parameters["w"])
        optimizer.step(1e-4)
        return parameters["w"].detach().clone()

    assert torch.equal(rounded(1, 5, noise=0), rounded(1, 5, noise=1))
    assert not torch.equal(rounded(1, 5, noise=0), rounded(2, 5, noise=0))
    assert not torch.equal(rounded(1, 5, noise=0), rounded(1, 6, noise=0))


def test_a_mean_of_squares_in_bf16_falls_when_gradients_do() -> None:
    parameters = {"w": nn.Parameter(torch.zeros(64, 64))}
    made = TrainConfig(max_steps=1, global_batch_size=1, optimizer={"name": "adamw_bf16", "beta2": 0.999})
    optimizer = build_optimizer(made, parameters)
    for step in range(300):
        parameters["w"].grad = torch.full((64, 64), 1.0 if step == 0 else 0.0)
        optimizer.step(1e-4)
    square = optimizer.state()["w.exp_avg_sq"].float().mean().item()
    assert square == pytest.approx(1e-3 * 0.999**299, rel=0.02), "to the nearest, it would still be 1e-3"
