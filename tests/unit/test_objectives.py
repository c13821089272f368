"""Laws of the objectives, and of the scalars of a step."""

from typing import Any

import pytest
import torch
from torch import nn

from sana import metrics as m
from sana.config.training.objective import LogitNormalSampling
from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.training.batch import BatchSlot, MicroBatch, pad_captions
from sana.training.metrics import Scalar, accumulate, to_host
from sana.training.objectives.huber import LINEAR_FRACTION
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import Losses
from sana.training.objectives.registry import ELEMENT_LOSSES, build_objective

SHAPE = [3, 16, 2, 4, 6]


class Half(nn.Module):
    """Predicts half of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, noisy: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (self.factor * noisy,)


def batch() -> MicroBatch:
    return MicroBatch(
        {
            "latents": philox_normal(SHAPE, key=("x0",)),
            "noise": philox_normal(SHAPE, key=("noise",)),
            "sigma": torch.tensor([0.1, 0.5, 0.8]),
            **pad_captions([torch.ones(2, 4), torch.ones(5, 4), torch.ones(3, 4)], "batch"),
        }
    )


def measured(**objective: Any) -> tuple[Losses, torch.Tensor]:
    """Return the losses of a batch under an objective, and the errors they are computed from."""
    made = build_objective(TrainConfig(max_steps=1, global_batch_size=1, objective=objective), flow_shift=3.0)
    one, model = batch(), Half()
    return made.loss(model, one), (made.velocity(model, one) - (one.noise - one.latents)).detach()


def test_the_losses_are_their_formulas() -> None:
    plain, error = measured(name="flow_matching")
    assert torch.equal(plain.per_sample, error.square().flatten(1).mean(1))
    assert plain.scalars[m.SIGMA_MEAN].value == pytest.approx((0.1 + 0.5 + 0.8) / 3)
    huber, error = measured(name="huber", delta=0.7)
    size = error.abs()
    expected = torch.where(size <= 0.7, size.square(), 0.7 * (2 * size - 0.7))
    torch.testing.assert_close(huber.per_sample, expected.flatten(1).mean(1), rtol=1e-6, atol=0)
    assert huber.scalars[LINEAR_FRACTION].value == pytest.approx((size > 0.7).float().mean().item())
    wide, _ = measured(name="huber", delta=1e6)
    torch.testing.assert_close(wide.per_sample, plain.per_sample, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ELEMENT_LOSSES)
def test_an_objective_draws_by_position_alone(name: str) -> None:
    config = TrainConfig(max_steps=1, global_batch_size=4, objective={"name": name}, seed=3)
    objective = build_objective(config, flow_shift=3.0)
    slots = [BatchSlot(7, position, row=position) for position in range(4)]
    latents = torch.empty(4, *SHAPE[1:])
    together = objective.draw(slots, {"latents": latents})
    alone = [objective.draw([slot._replace(row=0)], {"latents": latents[:1]}) for slot in slots]
    for kind in ("noise", "sigma"):
        assert torch.equal(together[kind], torch.cat([one[kind] for one in alone]))
    assert together["sigma"].dtype == torch.float32
    other = NoisePolicy(LogitNormalSampling(), 4, 3.0).draw(slots, latents)
    assert not torch.equal(other["sigma"], together["sigma"])


def test_scalars_are_reduced_by_their_kind() -> None:
    """Two ranks of two micro batches each, of one and three samples, in a global batch of eight."""

    def of_rank(rank: int) -> dict[str, Scalar]:
        step: dict[str, Scalar] = {}
        for size, value in ((1, 1.0 + rank), (3, 3.0 + rank)):
            micro = {"share": Scalar(torch.tensor(value), "sum"), "mean": Scalar(torch.tensor(value), "mean")}
            accumulate(step, {**micro, "norm": Scalar(torch.tensor(9.0), "equal")}, part=size / 8)
        return step

    ranks = [[of_rank(rank), {"share": Scalar(torch.tensor(float(rank)), "sum")}] for rank in range(2)]
    sent: list[torch.Tensor] = []
    to_host(ranks[1], lambda tensor: sent.append(tensor) or tensor)
    rows = to_host(ranks[0], lambda tensor: tensor + sent[0])
    assert rows == [{"share": 4.0 + 6.0, "mean": (1 + 3 * 3 + 2 + 3 * 4) / 8, "norm": 9.0}, {"share": 1.0}]


def test_captions_are_padded_to_few_lengths() -> None:
    for longest, length in ((1, 64), (64, 64), (65, 128), (300, 320)):
        made = pad_captions([torch.ones(longest, 4), torch.ones(1, 4)], "fixed")
        assert made["captions"].shape == (2, length, 4) and made["mask"].sum(1).tolist() == [longest, 1]
        assert pad_captions([torch.ones(longest, 4)], "batch")["captions"].shape == (1, longest, 4)
