"""The VAE's encoder compiled: three graphs a size, the eager bits where the backend is, an error where it cannot be."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from sana.config.load import load_config
from sana.errors import ConfigError
from sana.model import compiled_vae
from sana.model.compiled_vae import compile_encoder
from sana.model.vae import encode_latents, load_vae

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"


def clip(num_frames: int, seed: int = 0, height: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, num_frames, height, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.slow(group="numbers")
def test_three_graphs_serve_every_length_of_a_size(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, vae, graphs = load_vae(str(tiny_model)), load_vae(str(tiny_model)), []

    def counted(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_encoder(vae, cache=None, backend=counted)
    monkeypatch.setattr(compiled_vae, "_MAX_GRAPHS", 3)
    for num_frames, seed in [(9, 0), (1, 1), (13, 2), (9, 3)]:
        assert torch.equal(encode_latents(vae, clip(num_frames, seed)), encode_latents(plain, clip(num_frames, seed)))
    assert len(graphs) == 3
    assert torch._dynamo.config.recompile_limit != 3  # it is the process's
    with pytest.raises(ConfigError, match=r"encode_latents\.compile: .* set it to false"):
        encode_latents(vae, clip(1, height=48))  # another size, beyond the limit: never uncompiled without a word


def test_what_cannot_be_compiled_is_one_error(tiny_model: Path) -> None:
    def broken(*_: object) -> Any:
        raise OSError("no C++ compiler")

    vae = load_vae(str(tiny_model))
    compile_encoder(vae, cache=None, backend=broken)
    with pytest.raises(ConfigError, match=r"cannot be compiled here \(.*no C\+\+ compiler.*\); set it to false"):
        encode_latents(vae, clip(1))


def test_it_is_hashed_if_used_and_refused_with_tiling() -> None:
    plain, used = (load_config(DEMO, [f"encode_latents.compile={value}"]).encode_latents for value in ("false", "true"))
    assert used.hashed() == {**plain.hashed(), "compile": True} and "compile" not in plain.hashed()
    with pytest.raises(ConfigError, match="compile: true does not go with tiling: true; choose one"):
        load_config(DEMO, ["encode_latents.compile=true", "encode_latents.tiling=true"])


@pytest.mark.slow(group="vae_compile")
@pytest.mark.timeout(600)
def test_inductor_is_near_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one level that halves space and time: each further one is the same code and two minutes of compilation."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    config = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [True]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoencoderKLWan.from_config(config).eval()
    vae = copy.deepcopy(plain)
    compile_encoder(vae, cache=tmp_path / "compiled")
    first, expected = encode_latents(vae, clip(5)), encode_latents(plain, clip(5))
    assert ((first - expected).norm() / expected.norm()).item() < 1e-6
    encode_latents(vae, clip(5, seed=1))
    assert torch.equal(encode_latents(vae, clip(5)), first)
    assert any((tmp_path / "compiled").iterdir())
