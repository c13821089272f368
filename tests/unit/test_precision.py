"""What float32 means on a GPU is said by each computation, and no flag of the process stays changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sana.config.load import load_config
from sana.errors import ConfigError
from sana.model.device import provenance
from sana.model.pipeline import load_pipeline, sample_video
from sana.model.precision import MODEL_MATH, STRICT, TF32, TF32_CONVOLUTIONS, VAE_MATH, Float32Math, float32_math
from sana.model.text import TextEncoder
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.model.vae import decode_latents, encode_latents, load_vae
from sana.training.parallel.parallel import Parallel

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
KINDS = (STRICT, TF32_CONVOLUTIONS, TF32)
State = dict[str, object]


def flags() -> State:
    """Every flag there is, the old ones too: reading them raises where they contradict the new ones."""
    found: State = {
        "cudnn": cudnn.allow_tf32,
        "matmul": matmul.allow_tf32,
        "legacy": torch.get_float32_matmul_precision(),
    }
    if hasattr(cudnn, "conv"):
        found |= {"conv": cudnn.conv.fp32_precision, "rnn": cudnn.rnn.fp32_precision, "mm": matmul.fp32_precision}
        found |= {"cpu": torch.backends.mkldnn.conv.fp32_precision, "all": torch.backends.fp32_precision}
    return found


def now() -> Float32Math:
    found = flags()
    if "conv" in found:
        assert found["conv"] == found["rnn"] == ("tf32" if found["cudnn"] else "ieee")
        assert found["mm"] == ("tf32" if found["matmul"] else "ieee")
        assert found["cpu"] == "none"  # a CPU's bits do not depend on it
    return Float32Math(bool(found["cudnn"]), bool(found["matmul"]))


def _old_strict() -> None:
    cudnn.allow_tf32 = False


def _old_all() -> None:
    cudnn.allow_tf32 = matmul.allow_tf32 = True


@pytest.mark.parametrize("before", [lambda: None, _old_strict, _old_all], ids=["as torch begins", "strict", "all TF32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_flags_hold_inside_and_are_restored(before: Callable[[], None], kind: Float32Math) -> None:
    fresh = cudnn.allow_tf32, matmul.allow_tf32
    try:
        before()
        outside = flags()
        with float32_math(kind):
            assert now() == kind
            with pytest.raises(KeyError), float32_math(TF32 if kind == STRICT else STRICT):
                assert now() != kind
                raise KeyError
            assert now() == kind
        assert flags() == outside
        with pytest.raises(KeyError), float32_math(kind):
            raise KeyError
        assert flags() == outside
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = fresh


def test_modules_interleave_as_generators_do() -> None:
    """A generator that stops within its computation leaves the caller's precision to the caller's own `with`."""

    @contextmanager
    def module(kind: Float32Math) -> Iterator[None]:
        with float32_math(kind):
            yield

    outside = flags()
    first, second = module(STRICT), module(TF32)
    first.__enter__()
    second.__enter__()
    assert now() == TF32
    first.__exit__(None, None, None)  # not the last one that began
    assert now() == TF32
    second.__exit__(None, None, None)
    assert flags() == outside


def test_threads_compute_at_once_only_if_they_want_the_same() -> None:
    outside, told = flags(), []

    def other(kind: Float32Math) -> None:
        try:
            with float32_math(kind):
                told.append(str(now()))
        except RuntimeError as error:
            told.append(str(error))

    with float32_math(STRICT):
        for kind in (STRICT, TF32):
            thread = threading.Thread(target=other, args=(kind,))
            thread.start()
            thread.join()
        assert now() == STRICT
    assert told[0] == str(STRICT) and "while another thread computes with" in told[1]
    assert flags() == outside


def test_an_environment_variable_that_overrides_the_config_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with float32_math(TF32):
        pass  # of no matter on a CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="unset it and set encode_latents.vae_precision"), float32_math(TF32):
        pass


class _Seen(nn.Module):
    """Notes what it is computed in."""

    def __init__(self, seen: list[Float32Math]) -> None:
        super().__init__()
        self._seen = seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._seen.append(now())
        return _NoteBackward.apply(x, self._seen)


class _NoteBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: list[Float32Math]) -> torch.Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        ctx.seen.append(now())
        return grad, None


@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_the_vae_computes_in_the_precision_that_is_said(tiny_model: Path, precision: Any) -> None:
    vae, seen, outside = load_vae(str(tiny_model), precision=precision), [], flags()
    for part in (vae.encoder, vae.decoder):
        part.conv_in.register_forward_pre_hook(lambda *_: seen.append(now()))
    latents = encode_latents(vae, torch.zeros(1, 3, 1, 32, 32), precision=precision)
    decode_latents(vae, latents, precision=precision)
    assert set(seen) == {VAE_MATH[precision]} and len(seen) == 2
    assert next(vae.parameters()).dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert flags() == outside


def test_a_sample_is_made_in_both_precisions(tiny_model: Path) -> None:
    pipe, seen = load_pipeline(str(tiny_model)), []
    for part in (pipe.transformer, pipe.vae.decoder):
        part.register_forward_pre_hook(lambda *_: seen.append(now()))
    one = torch.ones(2, CAPTION_CHANNELS)
    shape = {"num_frames": 1, "height": 32, "width": 32, "steps": 1, "guidance": 1.0, "seed": 0}
    sample_video(pipe, prompt_embeds=one, negative_embeds=one, **shape, math=TF32, vae_precision="fp32")
    assert seen == [TF32, STRICT]


def test_the_text_encoder_is_strict(tiny_model: Path) -> None:
    encoder, seen = TextEncoder.load(str(tiny_model), dtype=torch.float32), []
    encoder.model.layers[0].register_forward_pre_hook(lambda *_: seen.append(now()))
    with float32_math(TF32):
        encoder.encode(["a cat"], template="none")
    assert seen == [STRICT]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_training_computes_forward_and_backward_in_its_precision(precision: Any) -> None:
    outside = flags()
    config = load_config(DEMO, [f"train.mixed_precision={precision}", "train.resources.device=cpu"])
    parallel, seen = Parallel.open(config.train), []
    weight = torch.ones(2, 2, requires_grad=True)
    with parallel.autocast():
        loss = _Seen(seen)(weight @ weight).sum()
    parallel.backward(loss)
    assert seen == [MODEL_MATH[precision]] * 2 and flags() == outside


def test_only_other_choices_than_the_default_are_hashed_anew() -> None:
    def hashed(section: str, *overrides: str) -> dict[str, Any]:
        return dict(getattr(load_config(DEMO, overrides), section).hashed())

    plain = {"batch_size": 1, "dtype": "fp16", "tiling": False}
    for value, old in {"tf32": "fp32", "bf16": "bf16", "fp32": "fp32_strict"}.items():
        key = f"encode_latents.vae_precision={value}"
        assert hashed("encode_latents", key) == plain | {"vae_dtype": old}
        assert ("vae_precision" in hashed("sample", f"sample.vae_precision={value}")) == (value != "tf32")
    assert hashed("sample", "sample.vae_tiling=true") == hashed("sample") | {"vae_tiling": True}
    assert hashed("train", "train.mixed_precision=tf32") == hashed("train") | {"mixed_precision": "tf32"}


def test_provenance_says_what_was_computed_in() -> None:
    cpu = torch.device("cpu")
    assert [provenance(cpu, name).split("; ")[:2] for name in ("tf32", "bf16")] == [["cpu", "fp32"], ["cpu", "bf16"]]


@pytest.mark.gpu
def test_tf32_and_strict_differ_on_a_gpu_as_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 5, 32, 32, generator=generator)
    weight = torch.randn(64, 64, 3, 3, 3, generator=generator)
    exact = nn.functional.conv3d(x.double(), weight.double())

    def error(kind: Float32Math) -> float:
        with float32_math(kind):
            made = nn.functional.conv3d(x.cuda(), weight.cuda()).double().cpu()
        return ((made - exact).norm() / exact.norm()).item()

    assert error(STRICT) < 1e-6 < 1e-4 < error(TF32_CONVOLUTIONS) < 2e-3
    assert error(TF32) == error(TF32_CONVOLUTIONS)


def test_on_a_cpu_all_of_them_are_float32() -> None:
    x, weight = torch.randn(1, 8, 3, 12, 12), torch.randn(8, 8, 3, 3, 3)
    exact = nn.functional.conv3d(x.double(), weight.double())
    made = []
    for kind in KINDS:
        with float32_math(kind):
            made.append(nn.functional.conv3d(x, weight))
    assert all(torch.equal(made[0], other) for other in made[1:])
    assert ((made[0] - exact).norm() / exact.norm()).item() < 1e-6


def test_compiled_code_is_compiled_once_for_each_of_them() -> None:
    """dynamo guards on the old flags, and reading those raises when only the new ones are set."""
    graphs: list[Float32Math] = []

    def counted(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        graphs.append(now())
        return graph.forward

    compiled = torch.compile(lambda x: x @ x, backend=counted)
    for kind in (STRICT, STRICT, TF32, TF32, STRICT, TF32):
        with float32_math(kind):
            assert torch.equal(compiled(torch.eye(4)), torch.eye(4))
    assert graphs == [STRICT, TF32]
