"""The probes of the base model: the linear guess, and which losses give which verdict."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from sana.data.eval_table import EvalTable
from sana.model.objective import noise_latents, velocity_target
from sana.model.random import philox_normal
from sana.training.base_check.linear_guess import LatentStatistics, linear_guess_loss, statistics_of
from sana.training.base_check.probes import LEVELS, OWN, PERMUTED
from sana.training.base_check.verdict import judge
from sana.workers.check_base import permuted

UNIT = LatentStatistics((0.0,) * 16, (1.0,) * 16)
SPREAD = (-0.02, 0.01, 0.0, 0.01, 0.02, -0.02)  # of the samples' losses


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_the_linear_guess_is_the_best_there_is(sigma: float, scale: float) -> None:
    x0 = 0.7 + scale * philox_normal([200_000], key=("x0",)).double()
    noise = philox_normal([200_000], key=("noise",)).double()
    x_t = noise_latents(x0[None], noise[None], torch.tensor([sigma]))[0].double()
    columns = torch.stack([x_t, torch.ones_like(x_t)], 1)
    target = velocity_target(x0, noise).double()
    solved = torch.linalg.lstsq(columns, target[:, None]).solution
    least = (target - (columns @ solved)[:, 0]).square().mean().item()
    assert linear_guess_loss(sigma, [scale**2]) == pytest.approx(least, rel=0.02)
    assert linear_guess_loss(0.5) == 2.0


def test_statistics_are_those_of_all_elements() -> None:
    latents = [philox_normal([16, 3, 4, 6], key=("latent", n)) * (n + 1) + n for n in range(3)]
    found = statistics_of(latents)
    together = torch.stack(latents).double().transpose(0, 1).flatten(1)
    assert found.mean == pytest.approx(together.mean(1).tolist())
    assert found.variance == pytest.approx(together.var(1, correction=0).tolist())
    assert not UNIT.is_shifted and LatentStatistics((1.0,) * 16, (1.0,) * 16).is_shifted
    narrow = LatentStatistics((0.0,) * 16, (0.25,) * 16)
    assert narrow.scale_shift == pytest.approx(1.0) and narrow.is_shifted


def table(loss: float, spread: Sequence[float] = SPREAD) -> EvalTable:
    losses = np.array([[loss + of] * len(LEVELS) for of in spread])
    return EvalTable(tuple(f"s{n}" for n in range(len(spread))), LEVELS, losses)


GOOD: Mapping[str, EvalTable] = {
    OWN: table(0.5),
    PERMUTED: table(0.6, SPREAD[::-1]),
    "timestep sigma": table(0.7),
    "instruction none": table(0.5, SPREAD[::-1]),
}
PASSED = {"loss": "passed", "captions": "passed", "timestep": "passed", "instruction": "passed"}


@pytest.mark.parametrize(
    ("tables", "statistics", "expected"),
    [
        ({}, UNIT, {}),
        ({OWN: table(2.1), PERMUTED: table(2.3), "timestep sigma": table(2.2), "instruction none": table(2.2)}, UNIT,
         {"loss": "failed"}),
        ({}, LatentStatistics((0.0,) * 16, (0.01,) * 16), {"loss": "failed"}),  # what a guess on these clips costs
        ({PERMUTED: table(0.5, SPREAD[::-1])}, UNIT, {"captions": "failed"}),
        ({PERMUTED: table(0.4)}, UNIT, {"captions": "failed"}),
        ({"timestep sigma": table(0.4)}, UNIT, {"timestep": "failed"}),
        ({"instruction none": table(0.4)}, UNIT, {"instruction": "failed"}),
    ],
)  # fmt: skip
def test_verdicts(tables: Mapping[str, EvalTable], statistics: LatentStatistics, expected: dict[str, str]) -> None:
    report = judge({**GOOD, **tables}, statistics)
    assert {one.probe: one.verdict for one in report.verdicts} == {**PASSED, **expected}
    assert {one.probe for one in report.failed} == {name for name, verdict in expected.items() if verdict == "failed"}


def test_few_clips_and_equal_captions_are_unsure() -> None:
    few = {name: table(one.mean(), SPREAD[:2]) for name, one in GOOD.items()}
    assert judge(few, UNIT).verdicts[1].verdict == "unsure"
    alike = {name: one for name, one in GOOD.items() if name != PERMUTED}
    assert judge(alike, UNIT).verdicts[1].said.startswith("all captions are equal")


def test_a_shift_of_the_latents_is_told() -> None:
    shifted = LatentStatistics((1.0,) * 16, (4.0,) * 16)
    said = judge(GOOD, shifted).verdicts[0].said
    assert "channel means are off by 1.00, standard deviations by a factor of 2.00" in said
    assert "not as a model's own" not in judge(GOOD, UNIT).verdicts[0].said


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a", "b", "c"], [1, 2, 0]), (["a", "a", "b"], [2, 2, 0]), (["a", "a"], None), (["a"], None)],
)
def test_a_caption_is_exchanged_for_another_text(texts: list[str], expected: list[int] | None) -> None:
    assert permuted(texts) == expected
