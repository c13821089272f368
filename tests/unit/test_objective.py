"""Laws of the flow-matching objective and of its noise levels."""

import math

import pytest
import torch

from sana.model.objective import (
    flow_matching_loss,
    noise_latents,
    shift_sigma,
    sigmas,
    timesteps_of,
    velocity_target,
)
from sana.model.random import philox_normal, philox_uniform

SHAPE = [3, 16, 2, 4, 6]
X0 = philox_normal(SHAPE, key=("x0",))
NOISE = philox_normal(SHAPE, key=("noise",))
GRID = (torch.arange(100_000) + 0.5) / 100_000  # the midpoints of equal slices: quantiles without sampling error


def test_the_ends_of_the_path_are_data_and_noise() -> None:
    assert torch.equal(noise_latents(X0, NOISE, torch.zeros(3)), X0)
    assert torch.equal(noise_latents(X0, NOISE, torch.ones(3)), NOISE)


def test_following_the_target_from_any_level_arrives_at_data_and_at_noise() -> None:
    s = torch.tensor([0.1, 0.5, 0.9])
    x_t, v = noise_latents(X0, NOISE, s), velocity_target(X0, NOISE)
    level = s.view(3, 1, 1, 1, 1)
    torch.testing.assert_close(x_t - level * v, X0, rtol=0, atol=2e-6)
    torch.testing.assert_close(x_t + (1 - level) * v, NOISE, rtol=0, atol=2e-6)


def test_each_sample_has_its_own_level() -> None:
    s = torch.tensor([0.2, 0.6, 0.8])
    alone = [noise_latents(X0[i : i + 1], NOISE[i : i + 1], s[i : i + 1]) for i in range(3)]
    assert torch.equal(noise_latents(X0, NOISE, s), torch.cat(alone))


def test_the_loss_of_a_sample_is_its_mean_square_whatever_its_batch() -> None:
    loss = flow_matching_loss(X0, NOISE)
    assert loss.shape == (3,) and loss.dtype == torch.float32
    assert loss[1] == flow_matching_loss(X0[1:2], NOISE[1:2])[0]
    assert flow_matching_loss(X0, X0 + 2).tolist() == pytest.approx([4.0] * 3, rel=1e-6)


def test_the_loss_is_computed_in_fp32_for_bf16_inputs() -> None:
    pred, target = X0.bfloat16(), NOISE.bfloat16()
    assert torch.equal(flow_matching_loss(pred, target), flow_matching_loss(pred.float(), target.float()))


def test_shapes_that_would_broadcast_are_an_error() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        flow_matching_loss(X0, NOISE[:1])


def test_the_official_sampling_has_the_official_quantiles() -> None:
    s = sigmas("logit_normal", GRID, shift=3.0)
    measured = torch.quantile(s, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])).tolist()
    assert measured == pytest.approx([0.367, 0.605, 0.750, 0.854, 0.939], abs=1e-3)  # NVlabs' own sampler, measured
    assert s.mean().item() == pytest.approx(0.713, abs=2e-3)  # theirs floors to 1/1000, which costs 0.001


@pytest.mark.parametrize(("sampling", "shift"), [("logit_normal", 3.0), ("uniform", 1.0), ("checkpoint", 8.0)])
def test_levels_stay_in_the_open_interval_and_grow_with_their_draw(sampling: str, shift: float) -> None:
    ends = torch.tensor([2.0**-24, 1 - 2.0**-24])  # the outermost draws there are
    draws = torch.cat([ends[:1], GRID, ends[1:]]).clamp(*ends.tolist())
    s = sigmas(sampling, draws, shift=shift)  # type: ignore[arg-type]
    assert s.dtype == torch.float32 and s.shape == draws.shape
    assert s.min() > 0 and s.max() < 1
    assert (s.diff() >= 0).all()


def test_checkpoint_sampling_is_the_schedulers_own_training_levels() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    table = FlowMatchEulerDiscreteScheduler(shift=8.0).sigmas[:1000]  # from 1.0 down
    draws = torch.arange(1000, 0, -1) / 1000
    torch.testing.assert_close(sigmas("checkpoint", draws, shift=8.0), table, rtol=0, atol=1e-6)


def test_shift_one_changes_nothing_and_the_median_moves_by_the_formula() -> None:
    assert torch.equal(sigmas("uniform", GRID, shift=1.0), GRID.float())
    median = torch.tensor([0.5])
    assert sigmas("logit_normal", median, shift=3.0, mean=0.4, std=2.0).item() == pytest.approx(
        shift_sigma(torch.tensor(1 / (1 + math.exp(-0.4))), 3.0).item(), rel=1e-6
    )


def test_timesteps_are_not_rounded() -> None:
    s = sigmas("logit_normal", philox_uniform([64], key=("t",)), shift=3.0)
    assert torch.equal(timesteps_of(s), 1000 * s) and (timesteps_of(s) % 1 != 0).any()


@pytest.mark.parametrize("bad", [{"sampling": "cosine"}, {"shift": 0.0}, {"std": 0.0}])
def test_an_invalid_sampling_is_an_error(bad: dict) -> None:
    options = {"sampling": "logit_normal", "shift": 3.0} | bad
    with pytest.raises(ValueError, match="timestep sampling"):
        sigmas(options.pop("sampling"), GRID[:3], **options)
