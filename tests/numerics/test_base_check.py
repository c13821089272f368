"""The base check catches what it is for: a small model over-fitted to 8 clips, then asked wrongly."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, SanaVideoTransformer3DModel
from torch import Tensor, nn

from sana.config.training.train import TrainConfig
from sana.model.objective import flow_matching_loss, noise_latents, sigmas, timesteps_of, velocity_target
from sana.model.random import philox_normal, philox_uniform
from sana.model.text import TEMPLATES, TextEncoder
from sana.model.transformer import pad, predict
from sana.model.vae import encode_latents
from sana.runtime.results import BaseCheckReport
from sana.training.base_check import probes
from sana.training.base_check.linear_guess import statistics_of
from sana.training.base_check.probes import OWN, PERMUTED, ProbedSample, probe
from sana.training.base_check.verdict import judge
from sana.training.parallel.parallel import Parallel

NUM_CLIPS, STEPS = 8, 400
SUBJECTS = [
    "red waves",
    "blue stripes",
    "a green field",
    "rolling stones",
    "the night sky",
    "a rabbit",
    "two cars",
    "snow",
]
CONFIG = TrainConfig(max_steps=1, global_batch_size=1, mixed_precision="fp32", seed=0)


def clip(number: int) -> Tensor:
    """Three coloured discs that move over black: float32 [3, 9, 64, 96] in [0, 1]."""
    u = philox_uniform([24], key=("clip", number))
    t, y, x = (torch.linspace(0, 1, size) for size in (9, 64, 96))
    t, y, x = t.view(-1, 1, 1), y.view(1, -1, 1), x.view(1, 1, -1)
    pixels = torch.zeros(3, 9, 64, 96)
    for disc in range(3):
        across, down = (u[4 * disc + 2 * axis] + 0.5 * (u[4 * disc + 2 * axis + 1] - 0.5) * t for axis in range(2))
        inside = ((x - across) ** 2 + (y - down) ** 2 < (0.12 + 0.2 * u[12 + disc]) ** 2).float()
        color = (u[15 + 3 * disc : 18 + 3 * disc] > 0.4).float().view(3, 1, 1, 1)
        pixels = pixels * (1 - inside) + color * inside
    return pixels


def small_vae() -> AutoencoderKLWan:
    """A VAE of the tiny model's size whose latents depend on the pixels' range, as the published one's do."""
    torch.manual_seed(1)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    for parameter in vae.parameters():
        if parameter.ndim > 1:
            parameter.data *= 3
    return vae.requires_grad_(False).eval()


class Latents:
    """The clips' latents, normalised to unit statistics, as a model's own; and as two usual mistakes make them."""

    def __init__(self) -> None:
        clips = torch.stack([clip(number) for number in range(NUM_CLIPS)])
        vae = small_vae()
        vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
        raw = encode_latents(vae, clips * 2 - 1, precision="fp32")
        mean, std = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        self.right = encode_latents(vae, clips * 2 - 1, precision="fp32")
        self.of_0_to_1 = encode_latents(vae, clips, precision="fp32")
        self.not_normalised = raw


def overfitted(latents: Tensor, captions: Sequence[Tensor]) -> nn.Module:
    """A model of 600 thousand weights that knows these clips by heart."""
    torch.manual_seed(0)
    model = SanaVideoTransformer3DModel(
        num_attention_heads=4, attention_head_dim=24, num_layers=3, num_cross_attention_heads=4,
        cross_attention_head_dim=24, cross_attention_dim=96, caption_channels=16, mlp_ratio=2.0,
    )  # fmt: skip
    embeds, mask = pad(list(captions))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (step + 1) / 20) * (1 - step / STEPS)
        noise = philox_normal(latents.shape, key=("noise", step))
        sigma = sigmas("logit_normal", philox_uniform([NUM_CLIPS], key=("sigma", step)), shift=2.0)
        velocity = predict(model, noise_latents(latents, noise, sigma), timesteps_of(sigma), embeds, mask)
        optimizer.zero_grad()
        flow_matching_loss(velocity, velocity_target(latents, noise)).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@pytest.mark.slow(group="base_check")
@pytest.mark.timeout(200)
def test_mistakes_are_caught_on_a_model_that_knows_its_clips(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.load(str(tiny_model), dtype=torch.float32)
    texts = [f"a clip of {subject}" for subject in SUBJECTS]
    captions = {name: [encoder.encode([text], template=name)[0].tokens for text in texts] for name in TEMPLATES}
    latents = Latents()
    model, parallel = overfitted(latents.right, captions["none"]), Parallel.open(CONFIG)

    def check(of: Tensor, own: Sequence[Tensor], template: str = "none") -> BaseCheckReport:
        others: Mapping[str, Sequence[Tensor]] = {
            f"instruction {name}": found for name, found in captions.items() if name != template
        }
        samples = [
            ProbedSample(
                f"clip{n}",
                of[n],
                {OWN: own[n], PERMUTED: own[(n + 1) % NUM_CLIPS], **{name: found[n] for name, found in others.items()}},
            )
            for n in range(NUM_CLIPS)
        ]
        tables = probe(parallel, model, samples, CONFIG, on_sample=lambda _: None)
        return judge(tables, statistics_of(of))

    def failed(report: BaseCheckReport) -> set[str]:
        return {verdict.probe for verdict in report.failed}

    right = check(latents.right, captions["none"])
    assert failed(right) == set() and right.losses[OWN][1] < 0.25 * right.clips_guess[1]
    assert "loss" in failed(check(latents.of_0_to_1, captions["none"]))
    raw = check(latents.not_normalised, captions["none"])
    assert "loss" in failed(raw) and "not as a model's own" in raw.verdicts[0].said
    swapped = [captions["none"][(n + 3) % NUM_CLIPS] for n in range(NUM_CLIPS)]
    assert "captions" in failed(check(latents.right, swapped))
    assert "instruction" in failed(check(latents.right, captions["image"], "image"))
    monkeypatch.setattr(probes, "timesteps_of", lambda sigma: sigma.float())
    assert "timestep" in failed(check(latents.right, captions["none"]))
