"""The noise levels of each timestep sampling: the inverse of its cumulative distribution, of one uniform draw a level.

So a level grows with its draw. Base levels are drawn first, and then shifted; shapes: any, float64 inside.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sana.config.training.objective import (
    CubicSampling,
    Knots,
    LinearMuTokenShift,
    LogitNormalSampling,
    MixSampling,
    ModeSampling,
    TimestepSampling,
    TokenShift,
)
from sana.model.objective import keep_inside, shift_sigma, sigmas

_HALVINGS = 64  # of an interval: below it float64 has no other number
_MIDPOINTS = 2**16  # of the quantiles that a histogram is compared with


def noise_levels(sampling: TimestepSampling, uniform: Tensor, *, shift: float) -> Tensor:
    """Turn uniform draws in (0, 1) into noise levels: float32 in (0, 1), of the draws' shape.

    `shift` is that of the config, or of the checkpoint, for this bucket (`bucket_shift`).
    """
    if isinstance(sampling, LogitNormalSampling):
        return sigmas(sampling.name, uniform, shift=shift, mean=sampling.mean, std=sampling.std)
    u = uniform.double()
    if isinstance(sampling, ModeSampling):
        base = mode_level(u, sampling.scale)
    elif isinstance(sampling, MixSampling):
        base = mix_level(u, sampling)
    elif isinstance(sampling, CubicSampling):
        base = CubicDensity(sampling.knots).level(u)
    else:
        return sigmas(sampling.name, uniform, shift=shift)
    return keep_inside(shift_sigma(base, shift))


def mode_level(u: Tensor, scale: float) -> Tensor:
    """Return SD3's mode sampling (Esser et al. 2024, arXiv 2403.03206, equation 20) of 1 - u: it rises with u then.

    `1 - v - scale (cos^2(pi v / 2) - 1 + v)` for v = 1 - u; it rises for a scale from -1 to 2 / (pi - 2).
    """
    return u + scale * (u - torch.sin(0.5 * math.pi * u).square())


def mix_level(u: Tensor, sampling: MixSampling) -> Tensor:
    """Return the level of a mixture of logit-normal and uniform levels (as NeMo Automodel's `mix_uniform_ratio`).

    The quantile of a mixture lies between those of its parts: it is found by halving, in the logit, to the last bit.
    """
    weight = sampling.uniform_fraction
    of_normal, of_uniform = sampling.mean + sampling.std * torch.special.ndtri(u), torch.logit(u)

    def below(logit: Tensor) -> Tensor:
        normal = torch.special.ndtr((logit - sampling.mean) / sampling.std)
        mixed: Tensor = (1 - weight) * normal + weight * torch.sigmoid(logit)
        return mixed

    return torch.sigmoid(_inverse(below, u, torch.minimum(of_normal, of_uniform), torch.maximum(of_normal, of_uniform)))


def _inverse(rising: Callable[[Tensor], Tensor], wanted: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return where a rising function, between low and high, has the wanted values."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        is_below = rising(middle) < wanted
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return 0.5 * (low + high)


class CubicDensity:
    """A density through knots by monotone cubics (Fritsch and Butland 1984: PCHIP), which stay between their knots.

    So it is nowhere below 0. Its integral is a quartic in each interval.
    """

    def __init__(self, knots: Knots) -> None:
        self.at = torch.tensor([sigma for sigma, _ in knots], dtype=torch.float64)
        value = torch.tensor([density for _, density in knots], dtype=torch.float64)
        width, slope = self.at.diff(), _monotone_slopes(self.at, value)
        rise = value.diff()
        # of t = (sigma - knot) / width: the cubic's coefficients, lowest first
        left, right = slope[:-1] * width, slope[1:] * width
        self._cubic = torch.stack([value[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise])
        self._width = width
        areas = width * self._area(torch.arange(len(width)), torch.ones(len(width), dtype=torch.float64))
        self._below = torch.cat([torch.zeros(1, dtype=torch.float64), areas.cumsum(0)])

    def _area(self, interval: Tensor, t: Tensor) -> Tensor:
        """Return the integral over an interval's first part t in [0, 1], for a width of 1."""
        a, b, c, d = self._cubic[:, interval]
        area: Tensor = t * (a + t * (b / 2 + t * (c / 3 + t * d / 4)))
        return area

    def level(self, u: Tensor) -> Tensor:
        """Return the levels below which the parts u of all draws are."""
        wanted = u * self._below[-1]
        interval = (torch.searchsorted(self._below, wanted, right=True) - 1).clamp(0, len(self._width) - 1)
        width = self._width[interval]
        inside = (wanted - self._below[interval]) / width
        t = _inverse(lambda t: self._area(interval, t), inside, torch.zeros_like(u), torch.ones_like(u))
        return self.at[interval] + t * width


def _monotone_slopes(at: Tensor, value: Tensor) -> Tensor:
    """Return the slopes at the knots: 0 at an extremum, else a weighted harmonic mean of those beside it."""
    width = at.diff()
    secant = value.diff() / width
    if len(secant) == 1:
        return secant.repeat(2)
    left, right = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    before, after = secant[:-1], secant[1:]
    is_monotone = before * after > 0
    mean = (left + right) / (left / torch.where(is_monotone, before, 1) + right / torch.where(is_monotone, after, 1))
    inner = torch.where(is_monotone, mean, 0.0)
    first = _end_slope(width[0], width[1], secant[0], secant[1])
    last = _end_slope(width[-1], width[-2], secant[-1], secant[-2])
    return torch.cat([first[None], inner, last[None]])


def _end_slope(width: Tensor, next_width: Tensor, secant: Tensor, next_secant: Tensor) -> Tensor:
    """Return the slope of a parabola through three knots at the first, held back so that the cubic stays monotone."""
    slope = ((2 * width + next_width) * secant - width * next_secant) / (width + next_width)
    if slope * secant <= 0:
        return torch.zeros_like(slope)
    if secant * next_secant <= 0 and slope.abs() > 3 * secant.abs():
        return 3 * secant
    return slope


def bucket_shift(rule: TokenShift | None, shift: float, num_tokens: int) -> float:
    """Return the shift of samples of so many latent tokens.

    `sqrt`: `shift sqrt(tokens / reference)`, as the levels of SD3 go with the root of the resolution (arXiv 2403.03206,
    equation 23). `linear_mu`: log shift is linear in the tokens, as `mu` of FLUX is (calculate_shift in diffusers'
    FluxPipeline), through (low_tokens, low_shift) and (reference_tokens, shift). Both are held within the bounds.
    """
    if rule is None:
        return shift
    if isinstance(rule, LinearMuTokenShift):
        part = (num_tokens - rule.low_tokens) / (rule.reference_tokens - rule.low_tokens)
        low, high = math.log(rule.low_shift), math.log(shift)
        ruled = math.exp(min(low + part * (high - low), 100.0))  # far above any bound, and no overflow
    else:
        ruled = shift * math.sqrt(num_tokens / rule.reference_tokens)
    return min(max(ruled, rule.min_shift), rule.max_shift)


def expected_fractions(sampling: TimestepSampling, *, shift: float, num_bins: int) -> Tensor:
    """Return which part of the draws a sampling puts into each of equal bins of (0, 1): float64 [num_bins]."""
    midpoints = (torch.arange(_MIDPOINTS, dtype=torch.float64) + 0.5) / _MIDPOINTS
    levels = noise_levels(sampling, midpoints, shift=shift)
    return torch.histc(levels.double(), num_bins, 0.0, 1.0) / _MIDPOINTS
