"""An adapter merged into the weights of its base model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sana.model.adapters.layouts import Adapter, AdapterLayer


@torch.no_grad()
def merged_weight(weight: Tensor, layer: AdapterLayer, *, scale: float = 1.0) -> Tensor:
    """Return float32 W + scale x alpha / rank B A; of DoRA the rows of that, each of the length of its magnitude.

    Of DoRA another `scale` than 1 scales B A, as `set_adapters` of diffusers does, and not the magnitudes.
    """
    a, b = (part.to(weight.device, torch.float32).flatten(1) for part in (layer.a, layer.b))
    changed = weight.float() + (scale * layer.scale) * (b @ a).view_as(weight)
    if layer.magnitude is None:
        return changed
    rows = (len(weight), *[1] * (weight.ndim - 1))
    lengths: Tensor = torch.linalg.vector_norm(changed.flatten(1), dim=1).view(rows)
    merged: Tensor = layer.magnitude.to(weight.device, torch.float32).view(rows) / lengths * changed
    return merged


@torch.no_grad()
def merge_into(weights: Mapping[str, Tensor], adapter: Adapter, *, scale: float = 1.0) -> None:
    """Merge an adapter into a model's weights, in place, layer by layer: no second copy of them is made."""
    for name, layer in adapter.items():
        weight = weights[f"{name}.weight"]
        weight.copy_(merged_weight(weight, layer, scale=scale))
