"""Previews: what the sampler takes for the clean latent, TAEHV's layout, and the linear map to colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from sana.errors import ConfigError
from sana.model.random import philox_normal
from sana.model.sampling.clean_estimate import Preview, observed
from sana.model.sampling.linear_preview import fit_linear_preview, mean_colours
from sana.model.sampling.taehv import Taehv, load_taehv

SHAPE = (1, 16, 3, 4, 6)


def schedulers() -> list[Any]:
    return [
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
        FlowMatchEulerDiscreteScheduler(shift=8.0),
    ]


@pytest.mark.parametrize("scheduler", schedulers(), ids=["dpm", "euler"])
def test_the_estimate_of_an_exact_velocity_is_the_clean_latent_at_every_level(scheduler: Any) -> None:
    x0, noise = philox_normal(SHAPE, key=("x0",)), philox_normal(SHAPE, key=("noise",))
    seen: list[tuple[int, int, Tensor]] = []

    def run(preview: Preview | None) -> Tensor:
        scheduler.set_timesteps(6)
        x = noise
        with observed(scheduler, preview, None, 6):
            for index, timestep in enumerate(scheduler.timesteps):
                sigma = float(scheduler.sigmas[index])
                velocity = (x - x0) / sigma  # of the straight way from x0 through x
                x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        return x

    plain = run(None)
    watched = run(Preview(2, lambda done, steps, x: seen.append((done, steps, x))))
    assert torch.equal(plain, watched), "watching changes no bit"
    assert [(done, steps) for done, steps, _ in seen] == [(2, 6), (4, 6), (6, 6)]
    for _, _, estimate in seen:
        assert torch.allclose(estimate, x0, atol=1e-5)
    assert "step" not in vars(scheduler)


def test_the_estimate_is_the_schedulers_own_and_not_what_is_still_noise() -> None:
    scheduler, seen = schedulers()[0], []
    scheduler.set_timesteps(4)
    x = philox_normal(SHAPE, key=("x",))
    with observed(scheduler, Preview(1, lambda _d, _s, x0: seen.append(x0)), None, 4):
        for index, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(philox_normal(SHAPE, key=("v", index)), timestep, x, return_dict=False)[0]
            assert torch.allclose(seen[-1], scheduler.model_outputs[-1], atol=1e-6), "of dpmsolver++: its x0"
    first = philox_normal((1, 16, 1, 4, 6), key=("first",))
    scheduler.set_timesteps(1)
    with observed(scheduler, Preview(1, lambda _d, _s, x0: seen.append(x0)), first, 1):
        scheduler.step(x, scheduler.timesteps[0], x)
    assert seen[-1].shape == (1, 16, 4, 4, 6) and torch.equal(seen[-1][:, :, :1], first), "image to video: whole"


def reference_decode(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """The public decoder, all frames at once: [1, 16, f, h, w] to float [F, 3, H, W] in [0, 1]."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"decoder.{name}.weight"]
        return functional.conv2d(x, weight, weights.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    x = torch.relu(conv(torch.tanh(latents[0].transpose(0, 1) / 3) * 3, "1"))
    for start, grow in ((3, 1), (9, 2), (15, 2)):
        for block in range(start, start + 3):
            past = functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[: len(x)]
            y = torch.relu(conv(torch.cat([x, past], 1), f"{block}.conv.0"))
            x = torch.relu(conv(torch.relu(conv(y, f"{block}.conv.2")), f"{block}.conv.4") + x)
        x = functional.interpolate(x, scale_factor=2)
        grown = conv(x, f"{start + 4}.conv")
        x = conv(grown.reshape(len(x) * grow, -1, *x.shape[2:]), f"{start + 5}")
    return conv(torch.relu(x), "22").clamp(0, 1)[3:]


def random_weights() -> dict[str, Tensor]:
    """Weights in the layout of taew2_1: as a decoder that keeps the scale of its inputs."""
    weights = {}
    for name, tensor in Taehv().state_dict().items():
        noise = philox_normal(tuple(tensor.shape), key=("taehv", name))
        weights[name] = noise * (2.0 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1 * noise
    return {**weights, "encoder.0.weight": torch.zeros(64, 3, 3, 3)}


def test_taehv_decodes_frame_by_frame_what_the_public_code_decodes_at_once(tmp_path: Path) -> None:
    weights, latents = random_weights(), philox_normal(SHAPE, key=("latents",))
    expected = (reference_decode(weights, latents) * 255).round().permute(0, 2, 3, 1)
    save_file(weights, tmp_path / "taew2_1.safetensors")
    torch.save(weights, tmp_path / "taew2_1.pth")
    wide = {
        **weights,
        "decoder.7.conv.weight": torch.cat([torch.zeros(256, 256, 1, 1), weights["decoder.7.conv.weight"]]),
    }
    torch.save(wide, tmp_path / "wide.pth")
    for name in ("taew2_1.safetensors", "taew2_1.pth", "wide.pth"):
        video = load_taehv(str(tmp_path / name), where="here").decode(latents)
        assert video.shape == (9, 32, 48, 3) and video.dtype == np.uint8
        assert float(video.std()) > 10, "a picture"
        assert np.abs(video.astype(int) - expected.numpy().astype(int)).max() <= 1, name


class Harmful:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/sana-test-preview-was-run"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "cannot be read as weights"),
        ("text.safetensors", b"no tensors", "cannot be read as weights"),
        ("text.pth", b"no tensors", "cannot be read as weights"),
        ("harm.pth", Harmful(), "cannot be read as weights"),
        (
            "other.pth",
            {"decoder.1.weight": torch.zeros(256, 48, 3, 3)},
            r"has decoder.1.weight of shape \[256, 48, 3, 3\]",
        ),
        ("vae.pth", {"conv.weight": torch.zeros(1)}, "has no decoder.1.weight"),
    ],
)
def test_other_files_are_one_clear_error_and_nothing_in_them_is_run(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=rf"sample.preview_weights: {path}.*{message}"):
        load_taehv(str(path), where="sample.preview_weights")
    assert not Path("/tmp/sana-test-preview-was-run").exists()


def clip(name: str, weights: Tensor, bias: Tensor, *, noise: float) -> tuple[Tensor, Tensor]:
    """A latent, and pixels whose mean colours are a linear map of it, but for noise."""
    latent = philox_normal((16, 3, 4, 6), key=("latent", name))
    colours = latent.permute(1, 2, 3, 0) @ weights + bias
    colours = colours + noise * philox_normal(tuple(colours.shape), key=("noise", name))
    frames = torch.cat([colours[:1], colours[1:].repeat_interleave(4, 0)])
    pixels = frames.repeat_interleave(8, 1).repeat_interleave(8, 2).permute(3, 0, 1, 2)
    return latent, pixels


def test_a_linear_map_is_found_and_its_psnr_is_that_of_held_out_clips() -> None:
    weights, bias = 0.1 * philox_normal((16, 3), key=("w",)), torch.tensor([0.1, -0.2, 0.3])
    exact = fit_linear_preview([clip("a", weights, bias, noise=0)], [clip("b", weights, bias, noise=0)])
    assert np.allclose(exact.weights, weights.numpy(), atol=1e-5) and np.allclose(exact.bias, bias.numpy(), atol=1e-5)
    assert exact.psnr_db > 90 and exact.r2 == pytest.approx(1.0)
    noisy = [clip(f"c{i}", weights, bias, noise=0.1) for i in range(8)]
    held_out = [clip(f"d{i}", weights, bias, noise=0.1) for i in range(4)]
    found = fit_linear_preview(noisy, held_out)
    rows = torch.cat([torch.cat([latent.flatten(1).T, torch.ones(72, 1)], 1) for latent, _ in noisy])
    colours = torch.cat([mean_colours(pixels).reshape(-1, 3) for _, pixels in noisy])
    plain = torch.linalg.solve(rows.T @ rows, rows.T @ colours)  # the normal equations
    assert np.allclose(found.weights, plain[:16].numpy(), atol=1e-4)
    errors = torch.cat([
        mean_colours(pixels).reshape(-1, 3) - torch.cat([latent.flatten(1).T, torch.ones(72, 1)], 1) @ plain
        for latent, pixels in held_out
    ])  # fmt: skip
    assert found.psnr_db == pytest.approx(10 * float(torch.log10(4 / errors.square().mean())), abs=1e-3)
    assert found.psnr_db == pytest.approx(10 * np.log10(4 / 0.01), abs=0.7), "as good as its noise"
    assert (found.num_clips, found.num_held_out) == (8, 4)
    shown = torch.cat([mean_colours(pixels).reshape(-1, 3) for _, pixels in held_out])
    assert found.r2 == pytest.approx(float(1 - errors.square().mean() / shown.var(0, correction=0).mean()), abs=1e-4)
    shown = found.decode(held_out[0][0][None])
    assert shown.shape == (3, 4, 6, 3) and shown.dtype == np.uint8
    wanted = ((mean_colours(held_out[0][1]).clamp(-1, 1) + 1) * 127.5).numpy()
    assert np.abs(shown - wanted).mean() < 0.15 * 127.5


def test_mean_colours_are_of_the_first_frame_alone_and_then_of_four() -> None:
    pixels = philox_normal((3, 9, 16, 24), key=("pixels",))
    means = mean_colours(pixels)
    assert means.shape == (3, 2, 3, 3)
    assert torch.allclose(means[0, 1, 2], pixels[:, 0, 8:16, 16:24].mean((1, 2)), atol=1e-6)
    assert torch.allclose(means[2, 0, 1], pixels[:, 5:9, :8, 8:16].mean((1, 2, 3)), atol=1e-6)
