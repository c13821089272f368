"""Videos that continue, begin or change another one: what is given stays, and the rest is sampled as in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from sana.bucket import Bucket
from sana.config.load import load_config
from sana.data.video.given_video import read_given
from sana.data.video.video import to_pixels, write_mp4
from sana.errors import ConfigError
from sana.model.pipeline import SanaPipeline, load_pipeline, sample_latents, sample_video
from sana.model.random import philox_normal
from sana.model.sampling.held import Held, hold
from sana.model.transformer import pad
from sana.model.vae import encode_latents
from sana.stages import sample as stage
from tests.pipeline_runs import Outcome, Place

pytestmark = pytest.mark.timeout(200)
SHAPE = Bucket(9, 64, 96)
EMBEDS = {
    "prompt_embeds": philox_normal([5, 16], key=("prompt",)),
    "negative_embeds": philox_normal([3, 16], key=("negative",)),
}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> SanaPipeline:
    return load_pipeline(str(tiny_model))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 20 frames, and a mask that is white on the right."""
    folder = tmp_path_factory.mktemp("given")
    smooth = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
    frames = np.stack([np.asarray(Image.fromarray(one).resize((96, 64)), np.uint8) for one in smooth])
    write_mp4(folder / "video.mp4", frames, fps=16)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 60:] = 255  # in the middle of a token
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(folder / "black.png")
    return folder


def given_config(files: Path, **settings: Any) -> Any:
    values = {"prompt": "bunny", "path": str(files / "video.mp4"), **settings}
    config = load_config("configs/demo.yaml", [f"sample.bucket={SHAPE}", f"sample.videos=[{values}]"])
    return config.sample.videos[0]


CASES: dict[str, dict[str, Any]] = {
    "prefix": {"keep": "prefix", "frames": 5},
    "suffix": {"keep": "suffix", "frames": 4},
    "around_mask": {"keep": "around_mask", "mask": "mask.png"},
}


def held_by(pipe: SanaPipeline, files: Path, name: str) -> Held:
    settings = {key: str(files / value) if key == "mask" else value for key, value in CASES[name].items()}
    given = read_given(given_config(files, **settings), SHAPE, fps=16.0, where="x")
    return hold(pipe.vae, given, SHAPE, precision="fp32")


def plain_loop(pipe: SanaPipeline, held: Held, guidance: float) -> torch.Tensor:
    """The sampler written out: one call a prompt, Euler's steps by hand."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.0)
    scheduler.set_timesteps(3)
    x = torch.randn(held.latents.shape, generator=torch.Generator().manual_seed(7))
    captions, mask = pad(list(EMBEDS.values()))
    for level, following in zip(scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True):
        x = torch.where(held.clean, held.latents, x)
        timesteps = torch.where(held.clean[..., ::2, ::2], 0.0, 1000 * level)
        velocity = [
            pipe.transformer(
                x, encoder_hidden_states=captions[i : i + 1], encoder_attention_mask=mask[i : i + 1], timestep=timesteps
            ).sample
            for i in range(2)
        ]
        v = velocity[0] if guidance == 1 else velocity[1] + guidance * (velocity[0] - velocity[1])
        x = x + (following - level) * v
    return torch.where(held.clean, held.latents, x)


@pytest.mark.parametrize("guidance", [6.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_what_is_not_given_is_sampled_as_the_loop_written_out(
    pipe: SanaPipeline, files: Path, name: str, guidance: float
) -> None:
    held = held_by(pipe, files, name)
    settings = {"shape": SHAPE, "steps": 3, "guidance": guidance, "seed": 7}
    done: list[int] = []
    made = sample_latents(pipe, **EMBEDS, **settings, held=held, on_step=lambda step, _: done.append(step))
    with torch.no_grad():
        expected = plain_loop(pipe, held, guidance)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(made[held.clean.expand_as(made)], held.latents[held.clean.expand_as(made)])
    assert done == [1, 2, 3] and 0 < held.clean.float().mean() < 1


def test_with_the_first_frame_held_it_is_the_stock_pipeline_to_the_bit(pipe: SanaPipeline) -> None:
    first = philox_normal([1, 16, 1, 8, 12], key=("first",))
    latents, clean = torch.zeros(1, 16, 3, 8, 12), torch.zeros(1, 1, 3, 8, 12, dtype=torch.bool)
    latents[:, :, :1], clean[:, :, :1] = first, True
    for guidance in (6.0, 1.0):
        settings = {"shape": SHAPE, "steps": 3, "guidance": guidance, "seed": 7}
        stock = sample_latents(pipe, **EMBEDS, **settings, first_latents=first)
        assert torch.equal(sample_latents(pipe, **EMBEDS, **settings, held=Held(latents, clean)), stock)


def test_a_prefix_is_the_end_of_the_video_and_is_encoded_alone(pipe: SanaPipeline, files: Path) -> None:
    """The VAE is causal: its latents are those of any longer video that begins so."""
    given = read_given(given_config(files, keep="prefix", frames=5), SHAPE, fps=16.0, where="x")
    longer = read_given(given_config(files, keep="suffix", frames=4), Bucket(17, 64, 96), fps=16.0, where="x")
    assert given.frames.shape == (5, 64, 96, 3) and np.array_equal(given.frames[:2], longer.frames[15:])
    held = hold(pipe.vae, given, SHAPE, precision="fp32")
    assert held.clean[0, 0].all((1, 2)).tolist() == [True, True, False]
    whole = np.concatenate([given.frames, longer.frames[:4]])
    encoded = encode_latents(pipe.vae, torch.from_numpy(to_pixels(whole))[None], precision="fp32")
    torch.testing.assert_close(held.latents[:, :, :2], encoded[:, :, :2], rtol=0, atol=1e-5)


def test_a_suffix_and_a_mask_hold_tokens_of_the_whole_video(pipe: SanaPipeline, files: Path) -> None:
    suffix, masked = held_by(pipe, files, "suffix"), held_by(pipe, files, "around_mask")
    assert torch.equal(suffix.latents, masked.latents)
    assert suffix.clean[0, 0].all((1, 2)).tolist() == [False, False, True]
    # up to pixel 48: the token at 60 is made
    assert masked.clean[0, 0].float().mean((0, 1)).tolist() == [1.0] * 6 + [0.0] * 6


def test_a_whole_video_is_made_from_one(pipe: SanaPipeline, files: Path) -> None:
    given = read_given(given_config(files, keep="prefix", frames=5), SHAPE, fps=16.0, where="x")
    settings = {"num_frames": 9, "height": 64, "width": 96, "steps": 2, "guidance": 6.0, "seed": 7}
    video = sample_video(pipe, **EMBEDS, **settings, given=given)
    assert video.shape == (9, 64, 96, 3)
    assert not np.array_equal(video, sample_video(pipe, **EMBEDS, **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "away.mp4", "frames": 5}, "away.mp4 cannot be read: No such file or directory; name a local video"),
        ({"path": "mask.png", "frames": 5}, "mask.png cannot be used as a video"),
        ({"keep": "around_mask", "mask": "black.png"}, "black.png has no white, where the video is made"),
        ({"keep": "around_mask", "mask": "video.mp4"}, "video.mp4 cannot be read as a picture"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(files: Path, settings: dict[str, Any], said: str) -> None:
    found = {key: str(files / value) if key in ("path", "mask") else value for key, value in settings.items()}
    with pytest.raises(ConfigError) as error:
        read_given(given_config(files, **found), SHAPE, fps=16.0, where="sample.videos.0")
    assert said in str(error.value) and str(error.value).startswith("sample.videos.0")


def test_a_video_that_is_too_short_is_one_line(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"video.mp4 has 20 frames; 81 are needed"):
        read_given(given_config(files, keep="suffix", frames=4), Bucket(81, 64, 96), fps=16.0, where="x")


def test_files_are_hashed_by_their_content(trained: tuple[Place, Outcome], files: Path, tmp_path: Path) -> None:
    place, outcome = trained

    def recipe(*, path: Path = files / "video.mp4", **settings: Any) -> str:
        values = {"prompt": "bunny", "path": str(path), "frames": 5, **settings}
        context = place.context(f"sample.bucket={SHAPE}", f"sample.videos=[{values}]")
        return stage.recipe(context, outcome.tables).fingerprint

    copy = tmp_path / "copy.mp4"
    copy.write_bytes((files / "video.mp4").read_bytes())
    assert recipe() == recipe(path=copy)
    copy.write_bytes(copy.read_bytes() + b"\0")
    plain = stage.recipe(place.context(f"sample.bucket={SHAPE}"), outcome.tables).fingerprint
    assert len({recipe(), recipe(path=copy), recipe(frames=1), recipe(keep="suffix", frames=4), plain}) == 5
    with pytest.raises(ConfigError, match=r"sample.videos.0.path: .*away.mp4 cannot be read: No such file"):
        recipe(path=tmp_path / "away.mp4")


@pytest.mark.parametrize(
    ("videos", "said"),
    [
        ("{prompt: nobody, path: a, frames: 5}", "videos.0.prompt is nobody, the nickname of no prompt"),
        (
            "{prompt: bunny, path: a, frames: 6}",
            "frames 6 of a prefix must be 4k + 1, as latent frames are; use 5",
        ),
        (
            "{prompt: bunny, path: a, keep: suffix, frames: 3}",
            "frames 3 of a suffix must be 4k, as latent frames",
        ),
        ("{prompt: bunny, path: a}", "keep prefix needs frames; set one of the two"),
        ("{prompt: bunny, path: a, frames: 5, mask: b}", "keep prefix has no mask; set one of the two"),
        ("{prompt: bunny, path: a, keep: around_mask}", "keep around_mask needs a mask; set one of the two"),
        ("{prompt: bunny, path: a, keep: around_mask, mask: b, frames: 5}", "keep around_mask has no frames"),
        ("{prompt: bunny, path: s3://a, frames: 5}", "s3://a is not local; fetch it, and name the file"),
        ("{prompt: bunny, path: a, frames: 81}", "videos.0.frames 81 leaves nothing to make of bucket"),
        ("{prompt: bunny, path: a, frames: 1}, {prompt: bunny, path: b, frames: 1}", "prompt bunny has two of images"),
    ],
)
def test_what_cannot_hold_is_refused_when_the_config_is_loaded(videos: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("configs/demo.yaml", [f"sample.videos=[{videos}]"])
    assert said in str(error.value) and "1 mistake\n" in str(error.value)
