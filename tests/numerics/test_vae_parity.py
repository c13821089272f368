"""Latents are diffusers' own posterior mode, normalised; nothing is dropped on the way in or out."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from sana.bucket import Bucket
from sana.model.random import philox_uniform
from sana.model.vae import decode_latents, encode_latents, load_vae


def clips(num_clips: int, num_frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return philox_uniform([num_clips, 3, num_frames, height, width], key=("pixels",)) * 2 - 1


@pytest.fixture(scope="module")
def vae(tiny_model: Path) -> AutoencoderKLWan:
    return load_vae(str(tiny_model))


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_latents_equal_the_normalised_mode(vae: AutoencoderKLWan, tiny_model: Path, num_frames: int) -> None:
    pixels = clips(2, num_frames)
    plain = AutoencoderKLWan.from_pretrained(tiny_model, subfolder="vae")
    with torch.no_grad():
        mode = plain.encode(pixels).latent_dist.mode()
    # the published numbers of channels 0 and 15, by hand
    latents = encode_latents(vae, pixels)
    assert latents.dtype == torch.float32
    assert latents.shape[1:] == Bucket(num_frames, 32, 48).latent_shape
    torch.testing.assert_close(latents[:, 0], (mode[:, 0] + 0.7571) / 2.8184, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(latents[:, 15], (mode[:, 15] + 0.2921) / 1.9160, rtol=1e-6, atol=1e-6)
    mean, std = (torch.tensor(plain.config[f"latents_{name}"]).view(1, 16, 1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(latents * std + mean, mode, rtol=1e-6, atol=1e-6)


def test_a_clip_has_the_same_bytes_in_any_batch(vae: AutoencoderKLWan) -> None:
    pixels = clips(3, 5)
    together = encode_latents(vae, pixels)
    assert all(torch.equal(together[i : i + 1], encode_latents(vae, pixels[i : i + 1])) for i in range(3))


@pytest.mark.parametrize("num_frames", [5, 17])
def test_the_first_latent_frame_is_the_first_frame_encoded_alone(vae: AutoencoderKLWan, num_frames: int) -> None:
    """The VAE is causal: what image-to-video is conditioned on is in every stored latent, bit for bit."""
    pixels = clips(2, num_frames)
    assert torch.equal(encode_latents(vae, pixels[:, :, :1]), encode_latents(vae, pixels)[:, :, :1])


@pytest.mark.parametrize("size", [2, 4])
def test_in_a_batch_of_one_size_neighbours_and_place_change_no_bit(tiny_model: Path, size: int) -> None:
    batched = load_vae(str(tiny_model))
    batched.disable_slicing()  # as the worker does for encode_latents.batch_size above 1
    pixels = clips(4, 9, 96, 160)
    alone = encode_latents(batched, pixels[:1].repeat(size, 1, 1, 1, 1))[0]
    first = encode_latents(batched, pixels[:size])[0]
    last = encode_latents(batched, torch.cat([pixels[1:size], pixels[:1]]))[-1]
    assert torch.equal(alone, first) and torch.equal(alone, last)
    single = encode_latents(batched, pixels[:1])[0]
    assert (alone - single).norm() <= 1e-6 * single.norm()  # another size does: 1.4e-7 was measured


@pytest.mark.parametrize("num_frames", [1, 9])
def test_decoding_equals_diffusers_and_gives_the_clips_shape(vae: AutoencoderKLWan, num_frames: int) -> None:
    pixels = clips(1, num_frames)
    with torch.no_grad():
        expected = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    decoded = decode_latents(vae, encode_latents(vae, pixels))
    assert decoded.shape == pixels.shape and decoded.dtype == torch.float32
    assert decoded.min() >= -1 and decoded.max() <= 1
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-6)


def test_tiling_is_off_unless_asked_for_and_changes_the_latents(tiny_model: Path, vae: AutoencoderKLWan) -> None:
    pixels = clips(1, 1, 288, 32)  # taller than a tile of 256
    tiled = encode_latents(load_vae(str(tiny_model), tiling=True), pixels)
    assert tiled.shape == encode_latents(vae, pixels).shape
    assert not torch.allclose(tiled, encode_latents(vae, pixels), rtol=1e-3)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (clips(1, 6), "6 frames is not 4k"),
        (clips(1, 5, 40, 48), "height 40 is not a multiple of 16"),
        (clips(1, 5, 32, 56), "width 56 is not a multiple of 16"),
        (clips(1, 1) * 127.5, r"need \[-1, 1\]"),
        (clips(1, 1).masked_fill(clips(1, 1) > 0.9, float("nan")), r"need \[-1, 1\]"),
        (clips(1, 1).half(), "need float32"),
        (clips(1, 1)[:, :2], "need float32"),
    ],
)
def test_pixels_that_would_be_misread_are_rejected(vae: AutoencoderKLWan, pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_latents(vae, pixels)


def test_latents_of_another_layout_are_rejected(vae: AutoencoderKLWan) -> None:
    with pytest.raises(ValueError, match="need .B, 16, f, h, w."):
        decode_latents(vae, torch.zeros(1, 2, 16, 4, 4))
