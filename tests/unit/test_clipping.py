"""Clipping: by the norm of all gradients, by the size of each number, or not at all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.training.clipping import clip_gradients
from sana.training.parallel.parallel import Parallel

pytestmark = pytest.mark.timeout(60)

GRADIENTS = [torch.tensor([[3.0, -4.0], [0.5, 0.0]]), torch.tensor([12.0, -0.25])]
NORM = sum(gradient.square().sum().item() for gradient in GRADIENTS) ** 0.5


def clipped(gradients: list[Tensor], **settings: object) -> tuple[list[Tensor], float]:
    """Return the gradients after clipping, and the norm that is reported."""
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    unused = nn.Parameter(torch.zeros(3))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    config = TrainConfig(
        max_steps=1, global_batch_size=1, mixed_precision="fp32", resources={"device": "cpu"}, **settings
    )
    norm = clip_gradients(Parallel.open(config), [*parameters, unused], config)
    return [parameter.grad for parameter in parameters], norm.item()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_grad_norm": 2.0}, lambda g: g * 2.0 / NORM),
        ({"max_grad_norm": 20.0}, lambda g: g),
        ({"gradient_clipping": "value", "max_grad_value": 0.4}, lambda g: g.clamp(-0.4, 0.4)),
        ({"gradient_clipping": "none", "max_grad_norm": 2.0}, lambda g: g),
    ],
)
def test_gradients_are_clipped_and_the_norm_before_is_reported(settings: dict, expected: Callable) -> None:
    found, norm = clipped(GRADIENTS, **settings)
    assert norm == pytest.approx(NORM, rel=1e-6)
    for ours, gradient in zip(found, GRADIENTS, strict=True):
        torch.testing.assert_close(ours, expected(gradient), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "clipping", [{}, {"gradient_clipping": "value", "max_grad_value": 1.0}, {"gradient_clipping": "none"}]
)
def test_a_gradient_that_is_not_finite_is_seen_in_the_norm(clipping: dict) -> None:
    _, norm = clipped([torch.tensor([1.0, float("nan")])], **clipping)
    assert not torch.isfinite(torch.tensor(norm))


@pytest.mark.parametrize("clipping", [{"max_grad_norm": 0.1}, {"gradient_clipping": "none"}])
def test_the_norm_of_bf16_gradients_is_not_rounded_to_bf16(clipping: dict) -> None:
    gradients = [torch.randn(300, 300, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in range(3)]
    exact = sum(gradient.double().square().sum().item() for gradient in gradients) ** 0.5
    found, norm = clipped(gradients, **clipping)
    assert norm == pytest.approx(exact, rel=1e-4)
    after = sum(gradient.double().square().sum().item() for gradient in found) ** 0.5
    assert after == pytest.approx(clipping.get("max_grad_norm", exact), rel=1e-3)


def test_the_bound_of_the_norm_is_part_of_the_trajectory_only_where_the_norm_is_clipped() -> None:
    def settings(**given: object) -> dict[str, object]:
        return TrainConfig(max_steps=1, global_batch_size=1, **given).trajectory_settings()

    before = settings(max_grad_norm=0.2)
    assert before["max_grad_norm"] == 0.2 and "gradient_clipping" not in before and "max_grad_value" not in before
    assert settings(gradient_clipping="norm") == settings()
    assert settings(gradient_clipping="none", max_grad_norm=1) == settings(gradient_clipping="none", max_grad_norm=2)
    assert settings(gradient_clipping="value", max_grad_value=0.2)["max_grad_value"] == 0.2
    by_name = [settings(), settings(gradient_clipping="none"), settings(gradient_clipping="value", max_grad_value=1)]
    assert len({str(each) for each in by_name}) == 3
