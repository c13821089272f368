"""Sampling from cached captions, and checkpoints that stock diffusers loads and samples."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoPipeline

import sana.workers.sample as work
from sana.artifact import FileInfo
from sana.bucket import OFFICIAL_480P
from sana.errors import SanaError
from sana.model.objective import load_flow_shift
from sana.model.pipeline import SanaPipeline, load_pipeline, sample_video
from sana.model.random import philox_normal
from sana.model.text import TextEncoder
from sana.model.transformer import load_transformer, pad
from sana.stages import sample as stage
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.exports.model_export import export_model
from sana.training.trainables.full_transformer import FullTransformer
from sana.workers.sample import sample_one
from tests.pipeline_runs import Outcome, Place, inline_workers, run_alone

CLIP = {"num_frames": 5, "height": 64, "width": 96}
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


def test_the_checkpoints_own_scheduler_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    FlowMatchEulerDiscreteScheduler(shift=5.0).save_pretrained(tmp_path / "scheduler")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"][1] = "FlowMatchEulerDiscreteScheduler"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert load_pipeline(str(tmp_path)).scheduler.config.shift == 5.0


@pytest.mark.parametrize(("height", "width"), OFFICIAL_480P)
def test_every_official_size_may_be_sampled(pipe: SanaPipeline, height: int, width: int) -> None:
    """Diffusers' own check, which refuses sizes that 32 does not divide, is overridden."""
    arguments = ("a prompt", height, width, ["latents"], None, None, None, None, None)
    refused = height % 32 or width % 32
    with pytest.raises(ValueError, match="divisible by 32") if refused else nullcontext():
        SanaVideoPipeline.check_inputs(pipe, *arguments)
    assert pipe.check_inputs(*arguments) is None


def test_the_other_checks_are_still_made(pipe: SanaPipeline) -> None:
    with pytest.raises(ValueError, match="multiples of 16 but are 480 and 840"):
        pipe.check_inputs("a prompt", 480, 840)
    with pytest.raises(ValueError, match="Provide either"):
        pipe.check_inputs(None, 480, 832)


def test_a_sample_is_a_video_and_a_function_of_its_seed(pipe: SanaPipeline, embeds: dict) -> None:
    steps: list[tuple[int, int]] = []
    frames = sample_video(pipe, **embeds, **CLIP, **SETTINGS, on_step=lambda done, of: steps.append((done, of)))
    assert frames.shape == (5, 64, 96, 3) and frames.dtype == np.uint8
    assert steps == [(1, 3), (2, 3), (3, 3)]
    torch.manual_seed(99)
    assert np.array_equal(sample_video(pipe, **embeds, **CLIP, **SETTINGS), frames)
    assert not np.array_equal(sample_video(pipe, **embeds, **CLIP, **SETTINGS | {"seed": 8}), frames)


def test_a_tiled_decoding_is_diffusers_own_and_another_video(tiny_model: Path, embeds: dict) -> None:
    clip = {"num_frames": 5, "height": 64, "width": 288}  # two tiles beside each other
    stock = load_pipeline(str(tiny_model))
    whole = sample_video(stock, **embeds, **clip, **SETTINGS)
    tiled = sample_video(load_pipeline(str(tiny_model), vae_tiling=True), **embeds, **clip, **SETTINGS)
    stock.vae.enable_tiling()
    assert np.array_equal(sample_video(stock, **embeds, **clip, **SETTINGS), tiled)
    assert not np.array_equal(whole, tiled)


def test_a_size_that_stock_diffusers_refuses_is_sampled(pipe: SanaPipeline, embeds: dict) -> None:
    frames = sample_video(pipe, **embeds, num_frames=1, height=48, width=80, **SETTINGS)
    assert frames.shape == (1, 48, 80, 3)


@pytest.mark.parametrize("broken", ["latents", "decoded pixels"])
def test_a_video_that_is_not_finite_is_an_error(place: Place, pipe: SanaPipeline, embeds: dict, broken: str) -> None:
    """As uint8 it would be a video: of NaN, a black one."""
    prompt, bias = embeds["prompt_embeds"], pipe.vae.decoder.conv_out.bias
    if broken == "latents":
        prompt = prompt.clone()
        prompt[0, 0] = torch.nan
    config = place.config("sample.num_inference_steps=1", "sample.bucket=5x64x96")
    before = bias.detach().clone()
    try:
        if broken == "decoded pixels":
            bias.data[1] = torch.inf - torch.inf
        with pytest.raises(SanaError, match=rf"no video of prompt bunny with the ema weights: \d+ of \d+ {broken} are"):
            sample_one(config, pipe, prompt, embeds["negative_embeds"], lambda *_: None, name="prompt bunny")
    finally:
        bias.data.copy_(before)


def test_a_shape_that_would_be_floored_is_an_error(pipe: SanaPipeline, embeds: dict) -> None:
    with pytest.raises(ValueError, match="6 frames is not 4k"):
        sample_video(pipe, **embeds, **CLIP | {"num_frames": 6}, **SETTINGS)


def test_bf16_samples_with_rounded_weights_and_exact_rotary_tables(
    trained: tuple[Place, Outcome], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Casting the module would also round the tables: close positions would then be equal."""
    used: list[SanaPipeline] = []

    def no_video(pipe: SanaPipeline, **_: object) -> np.ndarray:
        used.append(pipe)
        return np.zeros((5, 64, 96, 3), np.uint8)

    monkeypatch.setattr(work, "sample_video", no_video)
    context, facts = place.context("train.mixed_precision=bf16"), trained[1]["train"].facts
    with inline_workers():
        run_alone(stage, context, trained[1].tables)
    transformer, exact = used[0].transformer, load_transformer(str(place.model))
    tables = list(transformer.rope.buffers())
    assert tables and all(torch.equal(a, b) for a, b in zip(tables, exact.rope.buffers(), strict=True))
    weights = load_weights(context.store, facts["trajectory"], facts["step"], which=context.config.sample.weights)
    kept = transformer.state_dict()
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weight.bfloat16()) for name, weight in weights.items())


def stock_sample(pipe: SanaVideoPipeline, embeds: dict, *, length: int | None) -> np.ndarray:
    """Sample with the stock pipeline: float32 [F, H, W, 3] in [0, 1]."""
    stacked, mask = pad(list(embeds.values()), length=length)
    return pipe(
        prompt_embeds=stacked[:1],
        prompt_attention_mask=mask[:1],
        negative_prompt=None,
        negative_prompt_embeds=stacked[1:],
        negative_prompt_attention_mask=mask[1:],
        frames=5,
        height=64,
        width=96,
        num_inference_steps=3,
        guidance_scale=6.0,
        generator=torch.Generator().manual_seed(7),
        use_resolution_binning=False,
        output_type="np",
    ).frames[0]


def test_an_export_samples_in_stock_diffusers_as_the_transformer_did_here(
    tiny_model: Path, tmp_path: Path, embeds: dict
) -> None:
    transformer = load_transformer(str(tiny_model))
    with torch.no_grad():
        for index, weight in enumerate(transformer.parameters()):
            weight += 0.02 * philox_normal(weight.shape, key=("trained", index))
    (tmp_path / "work").mkdir()
    exported(tmp_path, "out", tiny_model, transformer)
    stock = SanaVideoPipeline.from_pretrained(tmp_path / "out")
    assert type(stock) is SanaVideoPipeline
    loaded, kept = stock.transformer.state_dict(), transformer.state_dict()
    assert loaded.keys() == kept.keys() and all(torch.equal(loaded[name], kept[name]) for name in kept)

    ours = sample_video(load_pipeline(str(tiny_model), transformer=transformer), **embeds, **CLIP, **SETTINGS)
    before = sample_video(load_pipeline(str(tiny_model)), **embeds, **CLIP, **SETTINGS)
    assert not np.array_equal(ours, before)
    for length in (None, 300):  # padding changes nothing that can be seen
        theirs = (stock_sample(stock, embeds, length=length) * 255).round()
        assert np.abs(theirs - ours).max() <= 1


def exported(root: Path, folder: str, base: Path, transformer: torch.nn.Module) -> dict[str, FileInfo]:
    """Export to a folder of the store at `root`; returns the artifact's files."""
    trainable = FullTransformer(transformer)
    return export_model(
        LocalStore(str(root)), folder, trainable, trainable.parameters, base=str(base), work_dir=root / "work"
    )


def test_an_export_has_every_component_and_shares_what_training_left_as_it_was(
    tiny_model: Path, tmp_path: Path
) -> None:
    transformer, root = load_transformer(str(tiny_model)), tmp_path / "root"
    (root / "work").mkdir(parents=True)
    tensors = "transformer/diffusion_pytorch_model.safetensors"
    files = exported(root, "one", tiny_model, transformer)
    names = {str(path.relative_to(tiny_model)) for path in tiny_model.rglob("*") if path.is_file()}
    assert {str(path.relative_to(root / "one")) for path in (root / "one").rglob("*") if path.is_file()} == names
    assert list(files) == sorted(f"model/{name}" for name in names)
    for name in names:
        info, data = files[f"model/{name}"], (root / "one" / name).read_bytes()
        assert data == LocalStore(str(root)).read(info.key) and info.num_bytes == len(data)
        assert info.digest == hashlib.blake2b(data, digest_size=16).hexdigest()
        if not name.startswith("transformer/"):
            assert data == (tiny_model / name).read_bytes()
            assert (root / "one" / name).samefile(root / info.key)  # no second copy
    # the bytes are those that diffusers itself writes
    transformer.save_pretrained(tmp_path / "theirs")
    assert (root / "one" / tensors).read_bytes() == (
        tmp_path / "theirs/diffusion_pytorch_model.safetensors"
    ).read_bytes()
    config = (root / "one/transformer/config.json").read_text()
    theirs = (tmp_path / "theirs/config.json").read_text().splitlines(keepends=True)
    # without the folder that the model was loaded from: a run that resumes elsewhere exports the same bytes
    assert config == "".join(line for line in theirs if "_name_or_path" not in line) and str(tiny_model) not in config
    # the next export writes the transformer alone
    before = used_bytes(root)
    again = exported(root, "two", tiny_model, transformer)
    assert used_bytes(root) - before == sum(info.num_bytes for info in again.values() if info.key.startswith("two/"))
    assert {name for name, info in again.items() if info.key.startswith("two/")} == {
        f"model/{tensors}", "model/transformer/config.json"
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        exported(root, "three", tmp_path / "nowhere", transformer)


def used_bytes(folder: Path) -> int:
    """Return the bytes of all files, each counted once, whatever its names; caches aside."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file() and "work" not in path.parts]
    return sum({status.st_ino: status.st_size for status in found}.values())


def test_the_flow_shift_is_read_under_either_name(tiny_model: Path, tmp_path: Path) -> None:
    assert load_flow_shift(str(tiny_model)) == 8.0
    FlowMatchEulerDiscreteScheduler(shift=5.0).save_pretrained(tmp_path / "euler/scheduler")
    assert load_flow_shift(str(tmp_path / "euler")) == 5.0
    folder = tmp_path / "none/scheduler"
    folder.mkdir(parents=True)
    (folder / "scheduler_config.json").write_text(json.dumps({"prediction_type": "flow_prediction"}))
    with pytest.raises(ValueError, match="no flow_shift and no shift"):
        load_flow_shift(str(tmp_path / "none"))
    (folder / "scheduler_config.json").write_text(json.dumps({"prediction_type": "epsilon", "flow_shift": 8.0}))
    with pytest.raises(ValueError, match="predicts epsilon"):
        load_flow_shift(str(tmp_path / "none"))
