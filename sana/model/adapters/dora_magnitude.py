"""DoRA's part of a layer's output (Liu and others, arXiv 2402.09353), by the arithmetic of peft's layers.

peft's own break a compiled block into dozens of graphs, and under autocast round the weight whose rows they measure.
Without autocast the bits are peft's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class DoraMagnitude(nn.Module):
    """The lengths of the rows of a layer's weight, which learn; peft's layer calls it beside its own output.

    With m the lengths and n those of W + s B A, taken as constants, the layer's output becomes
    m / n (W x + s B A x) + bias. `weight` is [outputs], of a convolution [1, outputs, 1, ...].
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: Any,  # noqa: N803 - peft's names
        lora_B: Any,  # noqa: N803
        scaling: float,
        base_layer: Any,
        base_result: Tensor | None = None,
        adapter_name: str = "",
    ) -> Tensor:
        """Return what is added to the layer's output for `x`; `base_result` is it, unless `x` had dropout."""
        del adapter_name
        scale = self.weight / row_lengths(base_layer.weight, lora_A.weight, lora_B.weight, scaling)
        base = base_layer(x) if base_result is None else base_result
        if base_layer.bias is not None:
            base = base - base_layer.bias.view(-1, *[1] * (self.weight.ndim - 2))
        added: Tensor = (scale - 1) * base + scale * lora_B(lora_A(x)) * scaling
        return added


@torch.no_grad()
def row_lengths(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the Euclidean lengths of the rows of W + s B A: [outputs], of a kernel [1, outputs, 1, ...]."""
    with torch.autocast(weight.device.type, enabled=False):
        if weight.ndim == 2:
            # as peft multiplies, whose bits a stock loader has
            product = functional.linear(a.T.contiguous(), b).T
            lengths: Tensor = torch.linalg.norm(weight.to(a.dtype) + scaling * product, dim=1)
            return lengths
        rank = a.shape[0]
        product = torch.mm(b.view(-1, rank), a.view(rank, -1)).view(weight.shape)
        rows = weight.to(a.dtype) + scaling * product
        lengths = torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.ndim)), keepdim=True)
        return lengths.transpose(1, 0)
