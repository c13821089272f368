"""The tiny checkpoint: the same bytes each time, loaded by stock diffusers, and shaped as the published one."""

import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, SanaVideoPipeline, SanaVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from flows.cli.main import main
from sana.model.tiny_model import build_tiny_model
from sana.model.transformer import load_transformer


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow(group="numbers")
def test_two_processes_build_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    code = "import sys, pathlib; from sana.model import tiny_model as m; m.build_tiny_model(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True)
    assert digests(tmp_path / "again") == digests(tiny_model)


def test_the_seed_changes_every_model_and_the_global_state_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    build_tiny_model(tmp_path / "same")
    (tmp_path / "other").mkdir()  # an empty folder that exists is fine
    build_tiny_model(tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    one, other = digests(tmp_path / "other"), digests(tiny_model)
    assert digests(tmp_path / "same") == other
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {name for name in one if name.endswith("safetensors")}


def test_a_folder_that_is_not_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="not an empty directory"):
        build_tiny_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("flags", "following"),
    [([], "sana init path/to/clips --model 'my tiny'"), (["--encoder"], "encode_features.encoder='my tiny'")],
)
def test_the_command_says_what_comes_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    following: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("build_tiny_model", "build_tiny_encoder"):
        monkeypatch.setattr(f"sana.model.tiny_model.{name}", lambda *_, **__: None)
    main(["make-tiny-model", "my tiny", *flags])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("next: sana ") and last.endswith(following)
    main(["make-tiny-model", "my tiny", *flags, "--json"])
    assert "next" not in json.loads(capsys.readouterr().out)


def test_stock_diffusers_loads_it_and_its_constants_are_the_published_ones(tiny_model: Path) -> None:
    pipe = SanaVideoPipeline.from_pretrained(tiny_model)
    assert (pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial) == (4, 8)
    assert pipe.vae.config.z_dim == pipe.transformer.config.in_channels == 16
    published = inspect.signature(AutoencoderKLWan.__init__).parameters
    assert pipe.vae.config.latents_mean == published["latents_mean"].default
    assert pipe.vae.config.latents_std == published["latents_std"].default
    assert (pipe.scheduler.config.flow_shift, pipe.scheduler.config.prediction_type) == (8.0, "flow_prediction")
    assert pipe.transformer.config.sample_size == 30  # the 480p table
    assert 40_000 < sum(p.numel() for p in pipe.transformer.parameters()) < 43_000
    assert pipe.vae.encode(torch.zeros(1, 3, 5, 32, 48)).latent_dist.mode().shape == (1, 16, 2, 4, 6)


def test_its_tokenizer_round_trips_any_text(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, subfolder="tokenizer")
    text = "a red ball, \u732b \U0001f408 z\u017c\u0142"
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def edit_weights(base: Path, out: Path, **changes: torch.Tensor | None) -> Path:
    """Copy the transformer of `base` with weights replaced, or left out where None."""
    name = "transformer/diffusion_pytorch_model.safetensors"
    (out / "transformer").mkdir(parents=True)
    (out / "transformer/config.json").write_bytes((base / "transformer/config.json").read_bytes())
    weights = load_file(base / name) | changes
    save_file({key: value for key, value in weights.items() if value is not None}, out / name, {"format": "pt"})
    return out


def test_a_table_with_an_extra_axis_is_loaded_and_not_left_random(tiny_model: Path, tmp_path: Path) -> None:
    exact = load_transformer(str(tiny_model))
    table = exact.scale_shift_table.detach()
    old = edit_weights(tiny_model, tmp_path / "old", scale_shift_table=table[None].clone())
    loaded = load_transformer(str(old))
    assert type(loaded) is SanaVideoTransformer3DModel
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in exact.state_dict().items())


def test_missing_and_misshapen_weights_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    incomplete = edit_weights(tiny_model, tmp_path / "incomplete", **{"proj_out.bias": None})
    with pytest.raises(ValueError, match=r"lacks 1 weights .* first proj_out.bias"):
        load_transformer(str(incomplete))
    both = {"scale_shift_table": torch.zeros(1, 2, 24), "proj_out.bias": torch.zeros(3)}
    wrong = edit_weights(tiny_model, tmp_path / "wrong", **both)
    with pytest.raises(ValueError, match=r"proj_out.bias"):
        load_transformer(str(wrong))
