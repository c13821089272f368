"""Laws of the noise levels: each sampling draws the density that it is asked for, and grows with its draw."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import integrate, interpolate, special

from sana.bucket import TOKENS_480P, Bucket
from sana.config.training.objective import TimestepSampling, TokenShift
from sana.config.training.train import TrainConfig
from sana.model.objective import sigmas
from sana.model.random import philox_uniform
from sana.training.batch import BatchSlot
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.noise_levels import bucket_shift, expected_fractions, noise_levels

KNOTS = [[0.0, 0.2], [0.3, 1.0], [0.45, 0.0], [0.5, 0.0], [0.8, 3.0], [1.0, 0.5]]
# (settings, density of the level before it is shifted)
Density = Callable[[np.ndarray], np.ndarray]
NUM_DRAWS = 20_000
KS_LIMIT = 1.63 / math.sqrt(NUM_DRAWS)  # one fair sample in a hundred is beyond


def sampling(**settings: Any) -> TimestepSampling:
    return TypeAdapter(TimestepSampling).validate_python(settings)


def logit_normal(mean: float, std: float) -> Density:
    return lambda s: (
        np.exp(-0.5 * ((special.logit(s) - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi) * s * (1 - s))
    )


def pchip(s: np.ndarray) -> np.ndarray:
    curve = interpolate.PchipInterpolator(*zip(*KNOTS, strict=True))
    return curve(s) / curve.integrate(0.0, 1.0)


def by_quantiles(scale: float) -> Density:
    """SD3's density of f(u) for uniform u: 1 / |f'| where f is that level, from a table of f as the paper writes it."""
    u = np.linspace(0, 1, 200_001)
    level = 1 - u - scale * (np.cos(0.5 * np.pi * u) ** 2 - 1 + u)
    slope = -1 - scale * (1 - 0.5 * np.pi * np.sin(np.pi * u))
    return lambda s: np.interp(s, level[::-1], 1 / np.abs(slope[::-1]))


CASES: list[tuple[str, dict[str, Any], Density]] = [
    ("mode", {"scale": 1.29}, by_quantiles(1.29)),
    ("mode", {"scale": -0.8}, by_quantiles(-0.8)),
    ("mix", {"uniform_fraction": 0.3, "mean": 0.4, "std": 0.7}, lambda s: 0.7 * logit_normal(0.4, 0.7)(s) + 0.3),
    ("cubic", {"knots": KNOTS}, pchip),
    ("cubic", {"knots": [[0.25, 1.0], [0.75, 3.0]]}, lambda s: np.where((s > 0.25) & (s < 0.75), 4 * s, 0.0)),
]


def cumulative(density: Density, at: np.ndarray) -> np.ndarray:
    grid = np.linspace(1e-6, 1 - 1e-6, 400_001)
    return np.interp(at, grid, integrate.cumulative_trapezoid(density(grid), grid, initial=0.0))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "settings", "density"), CASES)
def test_a_sampling_draws_the_density_it_is_asked_for(
    name: str, settings: dict[str, Any], density: Density, shift: float
) -> None:
    draws = torch.cat([philox_uniform([NUM_DRAWS // 8], key=("levels", i)) for i in range(8)])
    levels = noise_levels(sampling(name=name, **settings), draws, shift=shift).double().numpy()
    base = levels / (shift - (shift - 1) * levels)  # the shift taken back
    assert np.abs(cumulative(density, base) - draws.numpy()).max() < 1e-4  # the inverse of its own distribution
    ranked = np.sort(cumulative(density, base))
    places = np.arange(NUM_DRAWS + 1) / NUM_DRAWS
    assert max(np.abs(ranked - places[1:]).max(), np.abs(ranked - places[:-1]).max()) < KS_LIMIT
    wrong = cumulative(lambda s: np.ones_like(s), np.sort(base))
    assert np.abs(wrong - places[1:]).max() > KS_LIMIT  # uniform levels would be found out


@pytest.mark.parametrize(("name", "settings"), [(name, settings) for name, settings, _ in CASES])
def test_levels_grow_with_their_draw_and_stay_inside(name: str, settings: dict[str, Any]) -> None:
    outermost = 2.0**-24
    draws = torch.cat([torch.tensor([outermost]), torch.linspace(0.001, 0.999, 999), torch.tensor([1 - outermost])])
    for shift in (0.5, 1.0, 8.0):
        levels = noise_levels(sampling(name=name, **settings), draws, shift=shift)
        assert levels.dtype == torch.float32 and levels.shape == draws.shape
        assert (levels.diff() >= 0).all() and levels.min() > 0 and levels.max() < 1


def test_neutral_cases_are_the_samplings_that_there_were_to_the_bit() -> None:
    draws = torch.linspace(0.001, 0.999, 999)
    for name, shift in (("logit_normal", 3.0), ("uniform", 3.0), ("checkpoint", 8.0)):
        assert torch.equal(noise_levels(sampling(name=name), draws, shift=shift), sigmas(name, draws, shift=shift))
    almost = [
        (sampling(name="mode", scale=0), "uniform"),
        (sampling(name="mix", uniform_fraction=1), "uniform"),
        (sampling(name="mix", uniform_fraction=0), "logit_normal"),
        (sampling(name="cubic", knots=[[0, 2], [0.4, 2], [1, 2]]), "uniform"),
    ]
    for one, same in almost:
        torch.testing.assert_close(
            noise_levels(one, draws, shift=3.0), sigmas(same, draws, shift=3.0), rtol=0, atol=1e-7
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mode", "scale": 1.76}, "less than or equal to 1.75"),
        ({"name": "mix", "uniform_fraction": 1.5}, "less than or equal to 1"),
        ({"name": "cubic"}, "knots"),
        ({"name": "cubic", "knots": [[0.0, 1.0]]}, "at least 2"),
        ({"name": "cubic", "knots": [[0.5, 1.0], [0.5, 2.0]]}, "must rise"),
        ({"name": "cubic", "knots": [[0.0, 1.0], [1.5, 2.0]]}, "must rise"),
        ({"name": "cubic", "knots": [[0.0, 1.0], [1.0, -2.0]]}, "0 or more"),
        ({"name": "cubic", "knots": [[0.0, 0.0], [1.0, 0.0]]}, "one above 0"),
    ],
)
def test_what_is_no_sampling_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        sampling(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_shift": 3, "max_shift": 2}, "swap them"),
        ({"name": "linear_mu", "low_tokens": 99999}, "not below"),
        ({"name": "sqrt", "low_tokens": 1}, "low_tokens"),
    ],
)
def test_what_is_no_shift_by_tokens_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainConfig(max_steps=1, global_batch_size=1, shift_by_tokens=settings)


@pytest.mark.parametrize(
    ("rule", "bucket", "expected"),
    [
        (None, "1x480x832", 3.0),
        ({"name": "sqrt"}, "81x480x832", 3.0),
        ({"name": "sqrt"}, "1x480x832", 3.0 * math.sqrt(1560 / 32760)),
        ({"name": "sqrt", "min_shift": 1.0}, "1x480x832", 1.0),
        ({"name": "sqrt", "reference_tokens": 1560, "max_shift": 9}, "81x480x832", 9.0),
        ({"name": "linear_mu"}, "81x480x832", 3.0),
        ({"name": "linear_mu"}, "1x480x832", 1.0),
        ({"name": "linear_mu", "low_tokens": 1560, "low_shift": 2.0}, "41x480x832", 2 * 1.5 ** (10 / 20)),
        # FLUX: mu from 0.5 at 256 tokens to 1.15 at 4096
        (
            {"name": "linear_mu", "reference_tokens": 4096, "low_tokens": 256, "low_shift": math.exp(0.5)},
            "1x512x1024",
            math.exp(0.5 + (math.log(3.0) - 0.5) * (2048 - 256) / (4096 - 256)),
        ),
    ],
)
def test_the_shift_of_a_bucket_is_its_formula(rule: dict[str, Any] | None, bucket: str, expected: float) -> None:
    made = None if rule is None else TypeAdapter(TokenShift).validate_python(rule)
    shape = Bucket.parse(bucket)
    assert bucket_shift(made, 3.0, shape.num_tokens) == pytest.approx(expected, rel=1e-12)
    policy = NoisePolicy(sampling(name="uniform"), 0, 3.0, made)
    slots = [BatchSlot(0, position, row=0) for position in range(4)]
    drawn = policy.draw(slots, torch.empty(4, 16, *[1] * 3).expand(4, *shape.latent_shape))["sigma"]
    uniform = torch.cat([philox_uniform([1], key=slot.key(0, "sigma")) for slot in slots])
    torch.testing.assert_close(drawn, sigmas("uniform", uniform, shift=expected))


def test_tokens_of_the_models_own_shape() -> None:
    assert Bucket.parse("81x480x832").num_tokens == TOKENS_480P


def test_expected_fractions_are_areas_of_the_density() -> None:
    found = expected_fractions(sampling(name="cubic", knots=[[0, 1], [1, 1]]), shift=3.0, num_bins=4)
    edges = np.linspace(0, 1, 5)
    np.testing.assert_allclose(found.numpy(), np.diff(edges / (3 - 2 * edges)), atol=2e-5)
    assert found.sum().item() == pytest.approx(1.0)


def test_offset_noise_adds_one_number_to_a_channel_of_some_samples() -> None:
    config = TrainConfig(max_steps=1, global_batch_size=1, noise_offset={"strength": 0.3, "probability": 0.5})
    slots = [BatchSlot(2, position, row=0) for position in range(64)]
    latents = torch.empty(64, 16, 3, 4, 6)
    plain = NoisePolicy(config.timestep_sampling, 0, 3.0).draw(slots, latents)
    offset = NoisePolicy(config.timestep_sampling, 0, 3.0, offset=config.noise_offset).draw(slots, latents)
    assert torch.equal(plain["sigma"], offset["sigma"])
    added = offset["noise"] - plain["noise"]
    hit = added.flatten(1).abs().sum(1) > 0
    assert 20 < hit.sum() < 44 and torch.equal(plain["noise"][~hit], offset["noise"][~hit])
    of_channels = added[hit].flatten(2)
    assert of_channels.std(2).max() < 1e-6 and of_channels.mean(2).std().item() == pytest.approx(0.3, rel=0.1)
    alone = NoisePolicy(config.timestep_sampling, 0, 3.0, offset=config.noise_offset).draw(slots[7:8], latents[:1])
    assert torch.equal(alone["noise"], offset["noise"][7:8])
