"""Layers whose weights do not learn and are stored in 8 bits: made whole for each product, and freed after it.

int8 and fp8 are torchao's weight-only quantisation, a float32 scale for each output; fp8_cast is the number itself in
e4m3, as diffusers' layerwise casting stores it. Codes are buffers of plain tensors, so whatever computes, compiles or
moves a module does it with these. (diffusers' own hooks put the weight back into 8 bits after a forward pass, and the
backward pass then meets it so.)
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from sana.config.training.adapter_names import fp8_cast_takes
from sana.runtime.worker_process import unhide_torchao

Format = Literal["int8", "fp8", "fp8_cast"]

_FP8 = torch.float8_e4m3fn
_BLOCKS = "transformer_blocks."


class _Linear(torch.autograd.Function):
    """A product with a stored weight, of which the backward pass makes the weight again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return functional.linear(x, whole(codes, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scale = ctx.saved_tensors
        return grads[0] @ whole(codes, scale, grads[0].dtype), None, None, None


class _Convolution(torch.autograd.Function):
    """A convolution in two dimensions with a stored kernel, as `_Linear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scale: Tensor | None, bias: Tensor | None, how: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.shape, ctx.how = x.shape, how
        return functional.conv2d(x, whole(codes, scale, x.dtype), bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        codes, scale = ctx.saved_tensors
        kernel = whole(codes, scale, grads[0].dtype)
        to_input: Tensor = conv2d_input(ctx.shape, kernel, grads[0], *ctx.how)  # type: ignore[no-untyped-call]
        return to_input, None, None, None, None


class _Quantized(nn.Module):
    """What both layers have: `codes` of the weight's shape, a scale for each output or none, and the bias."""

    codes: Tensor
    scale: Tensor | None
    bias: Any  # Tensor | None

    def _store(self, layer: nn.Linear | nn.Conv2d, kind: Format) -> None:
        nn.Module.__init__(self)
        for name in type(layer).__constants__:
            setattr(self, name, getattr(layer, name))
        codes, scale = quantized(layer.weight.detach(), kind)
        bias = None if layer.bias is None else layer.bias.detach()
        if bias is not None and kind == "fp8_cast":
            bias = bias.to(_FP8).to(bias.dtype)
        for name, tensor in (("codes", codes), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, tensor, persistent=False)
        self.train(layer.training)

    @property
    def weight(self) -> Any:
        """The whole weight, float32, made at each call."""
        return whole(self.codes, self.scale, torch.float32)

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the input and the bias in what autocast, if any, computes in; as it casts those of other layers."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return x.to(dtype), None if self.bias is None else self.bias.to(dtype)


class QuantizedLinear(_Quantized, nn.Linear):  # type: ignore[misc, override]  # buffers in place of parameters
    """A linear layer; peft puts adapters beside it as beside any other."""

    def __init__(self, layer: nn.Linear, kind: Format) -> None:
        self._store(layer, kind)

    def forward(self, x: Tensor) -> Tensor:
        x, bias = self._cast(x)
        result: Tensor = _Linear.apply(x, self.codes, self.scale, bias)  # type: ignore[no-untyped-call]
        return result


class QuantizedConv2d(_Quantized, nn.Conv2d):  # type: ignore[misc, override]  # as above
    """A convolution in two dimensions."""

    def __init__(self, layer: nn.Conv2d, kind: Format) -> None:
        self._store(layer, kind)

    def forward(self, x: Tensor) -> Tensor:
        x, bias = self._cast(x)
        how = (self.stride, self.padding, self.dilation, self.groups)
        result: Tensor = _Convolution.apply(x, self.codes, self.scale, bias, how)  # type: ignore[no-untyped-call]
        return result


def quantize_layers(model: nn.Module, kind: Format) -> None:
    """Store the weights of a transformer's large products in 8 bits, in place, but those of adapters.

    int8 and fp8 are of the linear layers and ungrouped convolutions in the blocks, 99 % of the published model;
    fp8_cast of those layers that diffusers' layerwise casting takes.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | nn.Conv2d) or not _is_stored(name, module, kind):
            continue
        parent, _, attribute = name.rpartition(".")
        made = QuantizedLinear(module, kind) if isinstance(module, nn.Linear) else QuantizedConv2d(module, kind)
        setattr(model.get_submodule(parent), attribute, made)


def quantized(weight: Tensor, kind: Format) -> tuple[Tensor, Tensor | None]:
    """Return the codes of a weight, int8 or the bytes of e4m3 in its shape, and the scale of each output [outputs]."""
    if kind == "fp8_cast":
        return weight.to(_FP8).view(torch.uint8), None
    codes, scale = _by_torchao(weight.flatten(1).float(), kind)
    if kind == "fp8":
        codes = codes.view(torch.uint8)
    return codes.view(weight.shape), scale.view(-1)


def whole(codes: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the weight that codes stand for, rounded to `dtype` once."""
    numbers = codes.view(_FP8) if codes.dtype == torch.uint8 else codes
    if scale is None:
        return numbers.to(dtype)
    return (numbers.float() * scale.view(-1, *[1] * (codes.ndim - 1))).to(dtype)


def _is_stored(name: str, module: nn.Linear | nn.Conv2d, kind: Format) -> bool:
    if ".lora_" in name:
        return False
    name = name.removesuffix(".base_layer")  # beside which an adapter is
    if kind == "fp8_cast":
        return fp8_cast_takes(name)
    return name.startswith(_BLOCKS) and getattr(module, "groups", 1) == 1


def _by_torchao(matrix: Tensor, kind: Format) -> tuple[Tensor, Tensor]:
    unhide_torchao()
    # an extra package, checked when the config is loaded
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(matrix, requires_grad=False)
    # their settings of inductor would change what else compiles in this process
    how = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind](set_inductor_config=False)
    quantize_(layer, how)
    found: Any = layer.weight
    return found.qdata, found.scale
