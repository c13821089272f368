"""What inductor makes of a block: the kernels between two products or convolutions are one."""

import re
from pathlib import Path

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from sana.model.transformer import load_transformer
from sana.training.compute.compiled_blocks import CAPTION_MULTIPLE, CompiledBlocks
from tests.numerics.test_compiled_blocks import loss_and_gradients

pytestmark = [pytest.mark.slow(group="compile"), pytest.mark.timeout(240)]

CALLS = re.compile(r"(?:extern_kernels\.|torch\.ops\.aten\.|cpp_)(\w+)(?:\.default)?\(")


def test_element_wise_work_is_one_kernel_between_products(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    model = load_transformer(str(tiny_model)).train()
    CompiledBlocks(model.transformer_blocks, kept=0.5)
    _, code = run_and_get_code(lambda: loss_and_gradients(model, 2, 4, 6, CAPTION_MULTIPLE))
    forward, backward = (CALLS.findall(each[each.index("def call(") :]) for each in code)
    for name, calls in (("forward", forward), ("backward", backward)):
        print(name, calls)
        fused = [call.startswith("fused") for call in calls]
        assert sum(fused) > 5 and not any(a and b for a, b in zip(fused, fused[1:], strict=False)), name
    # the feed-forward network: 1x1, bias, SiLU; depthwise, bias, SiLU, gate; 1x1; over frames; gate and residual
    first = forward.index("convolution")
    silu, gate, residual = forward[first + 1], forward[first + 3], forward[first + 6]
    kinds = ["convolution" if call == "convolution" else "fused" for call in forward[first:]]
    assert kinds == ["convolution", "fused", "convolution", "fused", "convolution", "convolution", "fused"]
    assert "silu" in silu and "silu" in gate and "split" in gate and "mul" in gate and "add" in residual
