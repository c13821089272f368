"""Image to video: the videos of the stock pipeline of diffusers, and pictures that are hashed by content."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline
from PIL import Image

from flows.cli.main import main
from sana.bucket import OFFICIAL_480P
from sana.config.load import load_config
from sana.data.video.first_frame import read_first_frame
from sana.errors import ConfigError
from sana.model.pipeline import SanaPipeline, load_pipeline, sample_latents, sample_video
from sana.model.sampling.image_to_video import encode_first_frame, from_first_frame
from sana.model.text import TextEncoder
from sana.model.transformer import pad
from sana.pipeline import graph
from sana.pipeline.run import Run, run_stages
from sana.stages import sample as stage
from tests.maintained_stores import context_of, store_of
from tests.pipeline_runs import SMALLER, Outcome, Place, inline_workers

pytestmark = pytest.mark.timeout(200)
CLIP = {"num_frames": 9, "height": 64, "width": 96}
SETTINGS = {"steps": 3, "guidance": 6.0, "seed": 7}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> SanaPipeline:
    return load_pipeline(str(tiny_model))


@pytest.fixture(scope="module")
def embeds(tiny_model: Path) -> dict[str, torch.Tensor]:
    encoder = TextEncoder.load(str(tiny_model), dtype=torch.float32)
    return {
        "prompt_embeds": encoder.encode(["a red ball"], template="video")[0].tokens,
        "negative_embeds": encoder.encode([""], template="none")[0].tokens,
    }


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((width, height)), np.uint8)


def by_hand(pipe: SanaPipeline, embeds: dict, frame: np.ndarray, guidance: float) -> torch.Tensor:
    """The stock pipeline as its documentation calls it, but with the checkpoint's flow shift: 8."""
    stock = SanaImageToVideoPipeline(None, None, pipe.vae, pipe.transformer, FlowMatchEulerDiscreteScheduler(shift=8.0))
    stock.set_progress_bar_config(disable=True)
    stacked, mask = pad(list(embeds.values()))
    return stock(
        image=Image.fromarray(frame),
        prompt_embeds=stacked[:1],
        prompt_attention_mask=mask[:1],
        negative_prompt=None,
        negative_prompt_embeds=stacked[1:],
        negative_prompt_attention_mask=mask[1:],
        frames=9,
        height=64,
        width=96,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        use_resolution_binning=False,
        output_type="latent",
    ).frames


@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_a_video_is_that_of_the_stock_pipeline_to_the_bit(pipe: SanaPipeline, embeds: dict, guidance: float) -> None:
    frame = picture(64, 96)
    first = encode_first_frame(pipe.vae, frame, precision="fp32")
    ours = sample_latents(
        pipe, **embeds, shape=load_config("configs/demo.yaml", ["sample.bucket=9x64x96"]).sample.shape,
        **{**SETTINGS, "guidance": guidance}, first_latents=first,
    )  # fmt: skip
    stock = by_hand(pipe, embeds, frame, guidance)
    assert torch.equal(ours, stock)
    assert torch.equal(ours[:, :, :1], first)  # held to the end


def test_the_first_frame_and_the_seed_make_the_video(pipe: SanaPipeline, embeds: dict) -> None:
    frames = {
        seed: sample_video(pipe, **embeds, **CLIP, **SETTINGS, first_frame=picture(64, 96, seed)) for seed in (0, 1)
    }
    assert frames[0].shape == (9, 64, 96, 3)
    assert not np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], sample_video(pipe, **embeds, **CLIP, **SETTINGS, first_frame=picture(64, 96, 0)))
    assert not np.array_equal(frames[0], sample_video(pipe, **embeds, **CLIP, **SETTINGS))
    # as it is decoded where it begins a clip: the tiny VAE's own loss, and no drift of the sampler
    alone = sample_video(pipe, **embeds, **{**CLIP, "num_frames": 5}, **SETTINGS, first_frame=picture(64, 96, 0))
    assert np.array_equal(alone[0], frames[0][0])


@pytest.mark.parametrize(("height", "width"), OFFICIAL_480P)
def test_every_official_size_may_be_sampled(pipe: SanaPipeline, height: int, width: int) -> None:
    made = from_first_frame(pipe, torch.zeros(1, 16, 1, 2, 2))
    arguments = ("a prompt", torch.zeros(1, 3, 1, 1), height, width, ["latents"])
    refused = height % 32 or width % 32
    with pytest.raises(ValueError, match="divisible by 32") if refused else nullcontext():
        SanaImageToVideoPipeline.check_inputs(made, *arguments)
    assert made.check_inputs(*arguments) is None
    with pytest.raises(ValueError, match="multiples of 16 but are 480 and 840"):
        made.check_inputs("a prompt", torch.zeros(1, 3, 1, 1), 480, 840)


def test_a_size_that_stock_diffusers_refuses_is_sampled(pipe: SanaPipeline, embeds: dict) -> None:
    small = {"num_frames": 5, "height": 48, "width": 80}
    assert sample_video(pipe, **embeds, **small, **SETTINGS, first_frame=picture(48, 80)).shape == (5, 48, 80, 3)


def test_the_flow_shift_is_that_of_the_checkpoint(pipe: SanaPipeline) -> None:
    """By `from_config` it would be 1."""
    assert FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config).config.shift == 1.0
    assert from_first_frame(pipe, torch.zeros(1)).scheduler.config.shift == 8.0


def test_a_picture_is_turned_upright_and_cut_around_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(np.rot90(wide)).save(tmp_path / "side.png", exif=exif)
    Image.fromarray(wide).convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("side.png", "alpha.png"):
        frame = read_first_frame(str(tmp_path / name), height=32, width=32, where="x")
        assert frame.shape == (32, 32, 3) and np.abs(frame[:, 2:-2].astype(int) - (250, 10, 10)).max() <= 2


def test_the_stage_and_generate_begin_with_the_picture(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = tmp_path / "first.png", tmp_path / "other.png"
    Image.fromarray(picture(90, 120)).save(first)
    Image.fromarray(picture(90, 120, 1)).save(other)
    sample = ("sample.num_inference_steps=2", "sample.bucket=5x64x96")
    prompt = place.config().sample.prompts["bunny"]
    videos = {}
    for name, images in (("text", "{}"), ("image", f"{{bunny: {first}}}")):
        with inline_workers(), Run(context_of(place, *sample, f"sample.images={images}")) as run:
            names = [name for name in graph.until(run.context.config, "sample") if name != "evaluate"]
            made = run_stages(run, names)[-1]
        videos[name] = store_of(place).read(made.artifact.files["bunny.mp4"].key)
    values = [
        f"work_dir={place.folder}/work", f"model.path={place.model}", f"download.datasets.0.source={place.clips}",
        *SMALLER, "train.max_steps=2", *sample,
    ]  # fmt: skip
    arguments = ["generate", "configs/demo.yaml", prompt, "--root", place.root]
    arguments += [part for value in values for part in ("-s", value)]
    with inline_workers():
        main([*arguments, "--image", str(first), "--out", str(tmp_path / "same.mp4")])
        main([*arguments, "--image", str(other), "--out", str(tmp_path / "other.mp4")])
    assert videos["image"] == (tmp_path / "same.mp4").read_bytes() != videos["text"]
    assert (tmp_path / "other.mp4").read_bytes() not in videos.values()
    capsys.readouterr()
    (tmp_path / "no.png").write_text("text")
    for wrong, more, said in (
        ("away.png", (), f"--image: there is no file {tmp_path}/away.png; name a local picture"),
        ("no.png", (), "cannot be read as a picture"),
        ("first.png", ("--bucket", "1x64x96"), "bucket 1x64x96 has one frame, the picture; use a longer one"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, "--image", str(tmp_path / wrong), *more])
        assert said in capsys.readouterr().err


def test_a_picture_is_hashed_by_its_content(trained: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, outcome = trained
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    Image.fromarray(picture(32, 32)).save(a)
    Image.fromarray(picture(32, 32)).save(b)
    Image.fromarray(picture(32, 32, 1)).save(c)

    def fingerprint(images: str) -> str:
        return stage.recipe(place.context(f"sample.images={images}"), outcome.tables).fingerprint

    assert fingerprint(f"{{bunny: {a}}}") == fingerprint(f"{{bunny: {b}}}")
    assert len({fingerprint(images) for images in ("{}", f"{{bunny: {a}}}", f"{{bunny: {c}}}")}) == 3
    c.write_bytes(c.read_bytes()[:60])
    for path, said in ((tmp_path / "away.png", "there is no file"), (c, "cannot be read as a picture")):
        with pytest.raises(ConfigError, match=rf"sample.images.bunny: .*{said}|{said}"):
            fingerprint(f"{{bunny: {path}}}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("sample.images={nobody: a.png}", "sample: images has nobody, the nickname of no prompt; sample.prompts has"),
        ("sample.images={bunny: s3://b/a.png}", "images has s3://b/a.png, which is not local; fetch it"),
        ("sample.images={bunny: a.png} | sample.bucket=1x96x160", "bucket 1x96x160 has one frame"),
    ],
)
def test_what_cannot_hold_is_refused_when_the_config_is_loaded(overrides: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("configs/demo.yaml", overrides.split(" | "))
    assert said in str(error.value)
