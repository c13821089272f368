"""Weights in 8 bits beside an adapter: the numbers of torchao and diffusers, gradients, and size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sana.model.adapters.quantized_layers import QuantizedConv2d, QuantizedLinear, quantize_layers, quantized, whole
from sana.model.transformer import load_transformer
from sana.runtime.worker_process import unhide_torchao
from sana.training.trainables.lora import LoraTransformer
from tests.numerics.test_lora import config_of, randomise, velocity

KINDS = ("int8", "fp8", "fp8_cast")
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 20), (2, 5, 12)),
    "1x1": (lambda: nn.Conv2d(12, 20, 1), (3, 12, 4, 6)),
    "temporal": (lambda: nn.Conv2d(12, 12, (3, 1), padding=(1, 0), bias=False), (2, 12, 5, 24)),
    "grouped": (lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12), (2, 12, 4, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_the_weight_that_codes_stand_for(name: str, kind: Any) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().requires_grad_(False)
    stored = (QuantizedLinear if name == "linear" else QuantizedConv2d)(layer, kind)
    assert not list(stored.parameters()) and stored.codes.element_size() == 1
    layer.weight.copy_(stored.weight)
    if layer.bias is not None and kind == "fp8_cast":
        layer.bias.copy_(layer.bias.to(torch.float8_e4m3fn).float())
    for dtype in (None, torch.bfloat16):
        found = []
        for one in (layer, stored):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                y = one(x)
            (y.float() ** 2).sum().backward()
            found.append((y.detach(), x.grad))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5 if dtype is None else 2e-2, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_codes_are_those_of_torchao(kind: Any) -> None:
    unhide_torchao()
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    weight = torch.randn(40, 96)
    layer = nn.Linear(96, 40, bias=False)
    layer.weight.data.copy_(weight)
    config = Int8WeightOnlyConfig if kind == "int8" else Float8WeightOnlyConfig
    quantize_(layer, config(set_inductor_config=False))
    codes, scale = quantized(weight, kind)
    assert torch.equal(whole(codes, scale, torch.float32), layer.weight.dequantize())  # type: ignore[operator]
    error = (whole(codes, scale, torch.float32) - weight).abs().max() / weight.abs().max()
    assert error < (0.005 if kind == "int8" else 0.05)


def _velocity_in(model: nn.Module, dtype: torch.dtype | None) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        return velocity(model)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_fp8_cast_is_the_layerwise_casting_of_diffusers(tiny_model: Path, dtype: torch.dtype | None) -> None:
    theirs = load_transformer(str(tiny_model))
    theirs.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    ours = load_transformer(str(tiny_model))
    quantize_layers(ours, "fp8_cast")
    cast = {name for name, p in theirs.named_parameters() if p.dtype == torch.float8_e4m3fn and name.endswith("weight")}
    stored = {f"{name}.weight" for name, m in ours.named_modules() if isinstance(m, QuantizedLinear | QuantizedConv2d)}
    assert cast == stored and len(stored) > 22
    assert torch.equal(_velocity_in(theirs, dtype), _velocity_in(ours, dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_learns_as_beside_whole_weights(tiny_model: Path, kind: Any, use_dora: bool) -> None:
    config = config_of(use_dora=use_dora)
    stored = LoraTransformer(load_transformer(str(tiny_model)), config.model_copy(update={"base_weights": kind}))
    plain = load_transformer(str(tiny_model))
    with torch.no_grad():
        for name, module in stored.model.named_modules():
            if isinstance(module, QuantizedLinear | QuantizedConv2d):
                other = plain.get_submodule(name.replace(".base_layer", ""))
                other.weight.copy_(module.weight)  # type: ignore[operator, union-attr]
                if module.bias is not None:
                    other.bias.copy_(module.bias)  # type: ignore[operator, union-attr]
    whole_weights = LoraTransformer(plain, config)
    losses = []
    for trainable in (stored, whole_weights):
        randomise(trainable)
        loss = velocity(trainable.model).square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, parameter in stored.parameters.items():
        wanted = whole_weights.parameters[name].grad
        assert parameter.grad is not None and wanted is not None
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()) + 1e-9)


def test_a_base_in_8_bits_is_small(tiny_model: Path) -> None:
    trainable = LoraTransformer(
        load_transformer(str(tiny_model)), config_of(rank=1).model_copy(update={"base_weights": "int8"})
    )
    in_blocks = trainable.model.transformer_blocks
    codes = sum(buffer.numel() for name, buffer in in_blocks.named_buffers() if name.endswith("codes"))  # type: ignore[union-attr, operator]
    left = sum(
        parameter.numel()
        for name, parameter in in_blocks.named_parameters()
        if ".lora_" not in name  # type: ignore[union-attr, operator]
    )
    assert left < 0.15 * codes, "what is no large product: norms, the depthwise convolution, modulation"
