"""Laws of rollout: when, how far, over which levels, and what integrates."""

import math
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from pydantic import ValidationError

from sana.config.training.rollout import RolloutConfig
from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.training.batch import BatchSlot
from sana.training.objectives.rollout import LEVELS, NUM_STEPS, SAMPLERS, RolloutPart, table_levels


def scheduler(num_steps: int, shift: float) -> DPMSolverMultistepScheduler:
    """The published checkpoint's own."""
    made = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, algorithm_type="dpmsolver++"
    )
    made.set_timesteps(num_steps)
    return made


@pytest.mark.parametrize(("num_steps", "shift"), [(50, 8.0), (20, 3.0), (28, 1.0)])
def test_levels_are_the_samplers_own_table_however_it_is_shifted(num_steps: int, shift: float) -> None:
    config = RolloutConfig(max_step_offset=3, num_inference_steps=num_steps, shift=shift)
    table = scheduler(num_steps, shift).sigmas.double()
    for at in (3, 10, num_steps - 1):
        found = table_levels(table[at].item(), 3, config)
        torch.testing.assert_close(found, table[at - 3 : at + 1], rtol=0, atol=2e-7)
    assert len(table_levels(table[2].item(), 3, config)) == 3  # the table has two above it
    assert table_levels(0.9999999, 3, config).tolist() == [0.9999999]


def test_levels_between_two_entries_are_as_far_apart_as_theirs() -> None:
    config = RolloutConfig(max_step_offset=2, num_inference_steps=50, shift=8.0)
    levels = table_levels(0.7, 2, config)
    before = levels / (8 - 7 * levels)
    torch.testing.assert_close(before.diff(), torch.full([2], -0.999 / 50, dtype=torch.float64))
    assert levels[-1] == 0.7 and 0.73 < levels[0] < 0.82  # in SimpleTuner two steps are 2/999


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 0.5, 10**6: 0.5}),
        ({"start_step": 10}, {9: 0.0, 10: 0.5}),
        ({"ramp_steps": 100}, {0: 0.0, 50: 0.25, 100: 0.5, 1000: 0.5}),
        ({"start_step": 100, "ramp_steps": 10, "probability_start": 0.1}, {99: 0.0, 100: 0.1, 105: 0.3, 110: 0.5}),
        ({"ramp_steps": 100, "ramp_shape": "cosine"}, {25: 0.07322, 50: 0.25, 75: 0.42678}),
        ({"ramp_steps": 4, "probability_start": 0.8, "probability_end": 0.0}, {1: 0.6, 4: 0.0}),
    ],
)  # fmt: skip
def test_the_probability_follows_its_ramp(settings: dict[str, Any], expected: dict[int, float]) -> None:
    config = RolloutConfig(max_step_offset=1, **settings)
    assert {step: config.probability_at(step) for step in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "shares"),
    [
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
        ("biased_early", [math.sqrt((i + 1) / 4) - math.sqrt(i / 4) for i in range(4)]),
        ("biased_late", [math.sqrt((4 - i) / 4) - math.sqrt((3 - i) / 4) for i in range(4)]),
    ],
)
def test_how_many_steps_are_drawn(strategy: str, shares: list[float]) -> None:
    config = RolloutConfig(max_step_offset=4, strategy=strategy, probability_end=0.6)
    part = RolloutPart(config, seed=1)
    slots = [BatchSlot(step, position, row=0) for step in range(250) for position in range(8)]
    drawn = part.draw(slots, {"sigma": torch.full([2000], 0.3)})
    steps = drawn[NUM_STEPS]
    assert (steps > 0).float().mean().item() == pytest.approx(0.6, abs=0.04)
    found = [(steps == i + 1).sum().item() / (steps > 0).sum().item() for i in range(4)]
    assert found == pytest.approx(shares, abs=0.045)
    alone = part.draw(slots[77:78], {"sigma": torch.full([1], 0.3)})
    assert torch.equal(alone[NUM_STEPS], steps[77:78]) and torch.equal(alone[LEVELS], drawn[LEVELS][77:78])
    assert (drawn[LEVELS].gather(1, steps[:, None])[:, 0].float() == 0.3).all()


@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
def test_the_passes_of_a_run_are_as_many_as_are_planned(strategy: str) -> None:
    config = RolloutConfig(
        max_step_offset=5, strategy=strategy, probability_end=0.8, start_step=50, ramp_steps=100, sampler="heun"
    )
    part = RolloutPart(config, seed=2)
    slots = [BatchSlot(step, position, row=0) for step in range(200) for position in range(8)]
    taken = 2 * part.draw(slots, {"sigma": torch.full([1600], 0.3)})[NUM_STEPS].float().mean().item()
    assert config.mean_passes(200) == pytest.approx(taken, rel=0.1)


def test_nothing_is_drawn_where_the_probability_is_zero() -> None:
    part = RolloutPart(RolloutConfig(max_step_offset=4, start_step=5), seed=1)
    drawn = part.draw([BatchSlot(4, 0, row=0)], {"sigma": torch.tensor([0.3])})
    assert drawn[LEVELS].shape == (1, 1) and drawn[NUM_STEPS].tolist() == [0]


def test_dpm_takes_the_steps_of_the_published_scheduler() -> None:
    made = scheduler(50, 8.0)
    made.set_begin_index(40)
    levels = made.sigmas.double()[40:45]
    x0, start = philox_normal([1, 16, 2, 4, 4], key=("x0",)), philox_normal([1, 16, 2, 4, 4], key=("x",))

    def velocity(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return (x - x0 * torch.cos(3 * x)) / (level.float() + 0.5)  # no straight line

    theirs = start
    for timestep in made.timesteps[40:44]:
        theirs = made.step(velocity(theirs, timestep / 1000), timestep, theirs).prev_sample
    ours = SAMPLERS["dpm"].integrate(lambda x, level: velocity(x, (1000 * level).long() / 1000), start, levels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (ours - SAMPLERS["euler"].integrate(velocity, start, levels)).abs().max() > 1e-3


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("dpm", 2)])
def test_samplers_converge_at_their_order(sampler: str, order: int) -> None:
    """On dx/ds = -x s, whose solution is known: an error at half the step is smaller by 2^order."""

    def error(steps: int) -> float:
        levels = torch.linspace(0.9, 0.3, steps + 1, dtype=torch.float64)
        end = SAMPLERS[sampler].integrate(lambda x, s: -x * s, torch.ones(1, dtype=torch.float64), levels)
        return abs(end.item() - math.exp((0.81 - 0.09) / 2))

    assert math.log2(error(32) / error(64)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_step_offset": 11, "num_inference_steps": 10}, "above num_inference_steps"),
        ({"max_step_offset": 1, "probability_end": 0.0}, "no sample is rolled out"),
        ({"max_step_offset": 1, "start_step": 4}, "leaves no step of 4"),
        ({"max_step_offset": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainConfig(max_steps=4, global_batch_size=1, rollout=settings)
