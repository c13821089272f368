"""An adapter of the difference of two models: the best product of two small matrices, layer by layer."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sana.config.training.adapter_names import Shapes
from sana.errors import SanaError
from sana.model.adapters.layouts import AdapterLayer
from sana.wording import first_of

_NAMED = 3  # tensors in an error


class Extracted(NamedTuple):
    """An adapter, and what of each layer's change it has: (captured, all), sums of squares."""

    adapter: dict[str, AdapterLayer]
    energy: dict[str, tuple[float, float]]


def check_rank(rank: int, targets: list[str], shapes: Shapes) -> None:
    """Require that a product of this rank is smaller than each layer. Raises SanaError: names the smallest."""
    weights = {target: shapes[f"{target}.weight"] for target in targets}
    sides = {target: min(shape[0], math.prod(shape[1:])) for target, shape in weights.items()}
    smallest = min(sides, key=lambda target: sides[target])
    if rank > sides[smallest]:
        raise SanaError(
            f"rank {rank} is more than {smallest} has, whose weight is {list(weights[smallest])}: at most "
            f"{sides[smallest]}, or name other layers by --targets"
        )


def check_same_model(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], *, where: str) -> None:
    """Require the same tensors of the same shapes. Raises SanaError: names the first that differ."""
    wrong = [name for name in sorted({*tuned, *base}) if _shape(tuned, name) != _shape(base, name)]
    if wrong:
        said = [f"{name} {_shape(tuned, name)}, in the base {_shape(base, name)}" for name in wrong[:_NAMED]]
        raise SanaError(f"{where} is no fine-tuned model of this base: {first_of(said, len(wrong))}; name its own base")


def extract(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    targets: list[str],
    *,
    rank: int,
    device: torch.device,
    on_layer: Callable[[int], None],
) -> Extracted:
    """Return, for each layer, the B A of this rank that is nearest to its change, by singular values; alpha is rank.

    A and B share the singular values. Kernels of a convolution are rows, as an adapter multiplies them.

    Raises:
        SanaError: none of these layers changed, or a number is not finite.
    """
    adapter, energy = {}, {}
    for number, target in enumerate(targets):
        weight = base[f"{target}.weight"]
        change = (tuned[f"{target}.weight"].to(device).double() - weight.to(device).double()).flatten(1)
        if not torch.isfinite(change).all():
            raise SanaError(f"{target}.weight has numbers that are not finite")
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        roots = values[:rank].sqrt()
        b, a = left[:, :rank] * roots, roots[:, None] * right[:rank]
        outputs, *inputs = weight.shape
        adapter[target] = AdapterLayer(
            a.float().cpu().reshape(rank, *inputs),
            b.float().cpu().reshape(outputs, rank, *[1] * (len(inputs) - 1)),
            scale=1.0,
        )
        squares = values.square()
        energy[target] = float(squares[:rank].sum()), float(squares.sum())
        on_layer(number + 1)
    if not any(total for _, total in energy.values()):
        raise SanaError("the model and the base are the same in all these layers: there is nothing to extract")
    return Extracted(adapter, energy)


def changes_beside(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], targets: list[str]) -> dict[str, float]:
    """Return the sums of squares of what changed in all other tensors, by name, of those that changed."""
    weights = {f"{target}.weight" for target in targets}
    found = {
        name: float((tensor.double() - base[name].double()).square().sum())
        for name, tensor in tuned.items()
        if name not in weights
    }
    return {name: square for name, square in found.items() if square}


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "none"
