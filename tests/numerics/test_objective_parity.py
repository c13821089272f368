"""The training objective equals its formula written out in plain torch: loss to 1e-6, gradient to 1e-5."""

from pathlib import Path

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from sana.model.objective import flow_matching_loss, noise_latents, sigmas, timesteps_of, velocity_target
from sana.model.random import philox_normal, philox_uniform
from sana.model.transformer import load_transformer, pad, predict

SHAPE = [2, 16, 3, 4, 6]
X0 = philox_normal(SHAPE, key=("x0",))
NOISE = philox_normal(SHAPE, key=("noise",))
DRAWS = philox_uniform([2], key=("sigma",))
CAPTIONS = [philox_normal([length, 16], key=("caption", length)) for length in (3, 7)]


def our_loss(transformer: SanaVideoTransformer3DModel) -> torch.Tensor:
    s = sigmas("logit_normal", DRAWS, shift=3.0)
    embeds, mask = pad(CAPTIONS)
    velocity = predict(transformer, noise_latents(X0, NOISE, s), timesteps_of(s), embeds, mask)
    return flow_matching_loss(velocity, velocity_target(X0, NOISE)).mean()


def plain_loss(transformer: SanaVideoTransformer3DModel) -> torch.Tensor:
    """One sample after another, without padding, as in the paper."""
    total = torch.zeros(())
    for x0, eps, draw, caption in zip(X0, NOISE, DRAWS, CAPTIONS, strict=True):
        normal = 2**0.5 * torch.erfinv(2 * draw - 1)
        base = 1 / (1 + torch.exp(-normal))
        s = 3 * base / (1 + 2 * base)
        x_t = x0 - s * x0 + s * eps
        v = transformer(x_t[None], encoder_hidden_states=caption[None], timestep=1000 * s[None]).sample[0]
        total = total + ((v - (eps - x0)) ** 2).sum() / x0.numel()
    return total / len(X0)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_loss_and_gradient_equal_the_plain_rendering(tiny_model: Path, gradient_checkpointing: bool) -> None:
    ours = load_transformer(str(tiny_model))
    if gradient_checkpointing:
        ours.enable_gradient_checkpointing()
    plain = SanaVideoTransformer3DModel.from_pretrained(tiny_model, subfolder="transformer")
    loss, expected = our_loss(ours), plain_loss(plain)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    gradient, reference = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in (ours, plain)
    )
    assert gradient.shape == reference.shape and reference.norm() > 0
    assert (gradient - reference).norm() / reference.norm() < 1e-5


def test_what_the_mask_hides_has_no_effect(tiny_model: Path) -> None:
    transformer = load_transformer(str(tiny_model))
    with torch.no_grad():
        embeds, mask = pad(CAPTIONS, length=9)
        level = torch.tensor([300.0, 700.0])
        base = predict(transformer, X0, level, embeds, mask)
        garbage = embeds + 1000 * (1 - mask)[..., None]
        assert torch.equal(predict(transformer, X0, level, garbage, mask), base)
        assert not torch.equal(predict(transformer, X0, level, embeds + 1, mask), base)
        assert not torch.equal(predict(transformer, X0, level + 1, embeds, mask), base)


def test_a_bf16_transformer_keeps_its_rotary_tables_and_the_timestep_in_fp32(tiny_model: Path) -> None:
    transformer = load_transformer(str(tiny_model), dtype=torch.bfloat16)
    exact = load_transformer(str(tiny_model))
    assert {p.dtype for p in transformer.parameters()} == {torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(transformer.rope.buffers(), exact.rope.buffers(), strict=True))
    embeds, mask = pad(CAPTIONS)
    # both are 996 in bfloat16
    with torch.no_grad():
        low, high = (predict(transformer, X0, torch.full((2,), t), embeds, mask) for t in (995.0, 997.0))
    assert low.dtype == torch.float32 and not torch.equal(low, high)


def test_an_odd_latent_side_is_an_error(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        predict(load_transformer(str(tiny_model)), X0[..., :5], torch.ones(2), *pad(CAPTIONS))
