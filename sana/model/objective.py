"""Flow matching: what the transformer predicts, and at which noise levels.

x_t = (1 - s) x0 + s eps, target eps - x0, plain mean squared error, timestep 1000 s (Lipman et al. 2023,
arXiv 2210.02747; the same in NVlabs/Sana, train_video_scripts/train_video_ivjoint.py).

Shapes in this module: B samples; a latent is [B, C, f, h, w], normalised, float32.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor

SamplingName = Literal["logit_normal", "uniform", "checkpoint"]

TIMESTEPS = 1000  # the model's timestep is sigma on this scale
_MARGIN = 2.0**-24  # keeps sigma inside (0, 1) after rounding to float32


def noise_latents(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return `(1 - s) x0 + s noise`: [B, C, f, h, w] float32, for sigma [B] in (0, 1)."""
    s = sigma.float().view(-1, *[1] * (x0.ndim - 1))
    return (1 - s) * x0.float() + s * noise.float()


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return `noise - x0`, the derivative of x_t by sigma: [B, C, f, h, w] float32."""
    return noise.float() - x0.float()


def flow_matching_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return each sample's mean squared error over all its elements: float32 [B], no weight by sigma.

    Raises:
        ValueError: the shapes differ (an odd latent side is floored by the patcher, and would broadcast).
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    return (pred.float() - target.float()).square().flatten(1).mean(1)


def timesteps_of(sigma: Tensor) -> Tensor:
    """Return `1000 s`, the scale that the transformer embeds: float32, not rounded."""
    return TIMESTEPS * sigma.float()


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Return `f s / (1 + (f - 1) s)`: f > 1 moves levels towards noise (Esser et al. 2024, arXiv 2403.03206)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas(sampling: SamplingName, uniform: Tensor, *, shift: float, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Turn uniform draws into noise levels: float32 in (0, 1), of the draws' shape.

    Each sampling is the inverse of its cumulative distribution, so a level grows with its draw:
    `logit_normal` shifts `sigmoid(mean + std z)`, z normal (official: 0, 1 and shift 3; NVlabs/Sana
    configs/sana_video_config/Sana_2000M_480px_AdamW_fsdp.yaml, which also floors to 1/1000: not done here);
    `uniform` shifts the draw; `checkpoint` does so by the shift that ships with the checkpoint
    (`load_flow_shift`, 8.0 for the published one). `mean` and `std` serve `logit_normal` only.

    Raises:
        ValueError: the sampling is unknown, or shift or std is not positive.
    """
    if shift <= 0 or std <= 0:
        raise ValueError(f"timestep sampling {sampling}: shift {shift} and std {std} must be positive")
    u = uniform.double()
    if sampling == "logit_normal":
        base = torch.sigmoid(mean + std * torch.special.ndtri(u))
    elif sampling in ("uniform", "checkpoint"):
        base = u
    else:
        raise ValueError(f"unknown timestep sampling {sampling!r}; choose logit_normal, uniform or checkpoint")
    return keep_inside(shift_sigma(base, shift))


def keep_inside(levels: Tensor) -> Tensor:
    """Return levels as float32 that are inside (0, 1) after rounding."""
    return levels.clamp(_MARGIN, 1 - _MARGIN).float()


class _SchedulerConfig(ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """The config of any scheduler; importing one of diffusers' own imports scipy, which takes a second."""

    config_name = "scheduler_config.json"


def load_flow_shift(path: str, *, revision: str | None = None) -> float:
    """Read the flow shift that ships with a checkpoint (8.0 in the published one), for timestep sampling `checkpoint`.

    The key is `flow_shift` (DPMSolver, UniPC) or `shift` (FlowMatchEuler).

    Raises:
        ValueError: the scheduler has neither, or does not predict a flow.
    """
    return flow_shift_of(_SchedulerConfig.load_config(path, subfolder="scheduler", revision=revision), where=path)


def flow_shift_of(config: Mapping[str, Any], *, where: str) -> float:
    """Return the flow shift of a scheduler's config, that of the checkpoint `where`; raises as `load_flow_shift`."""
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ValueError(f"{where}/scheduler predicts {config['prediction_type']}, need flow_prediction")
    for key in ("flow_shift", "shift"):
        if key in config:
            return float(config[key])
    raise ValueError(
        f"{where}/scheduler has no flow_shift and no shift; choose another train.timestep_sampling than checkpoint"
    )
