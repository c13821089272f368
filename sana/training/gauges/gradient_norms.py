"""The gradient's norm by group of parameters: which part of the model a large gradient comes from."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sana.metrics import GRAD_NORM
from sana.training.metrics import Scalar

# the part of a parameter's name that says which group it belongs to; the rest embeds, modulates or projects
_GROUPS = {".attn1.": "self_attention", ".attn2.": "cross_attention", ".ff.": "feed_forward"}
OTHER = "other"


def group_of(name: str) -> str:
    """Return the group of a parameter of the transformer, by its name."""
    return next((group for part, group in _GROUPS.items() if part in f".{name}"), OTHER)


def groups_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each group that has some."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(group_of(name), []).append(parameter)
    return groups


def gradient_norms(
    grad_norm: Callable[[list[nn.Parameter]], Tensor], groups: Mapping[str, list[nn.Parameter]]
) -> dict[str, Scalar]:
    """Return the L2 norm of each group's gradient before clipping, by metric name, as `grad_norm` measures one.

    Collective. Their squares add up to that of `train/grad_norm`.
    """
    return {f"{GRAD_NORM}_{group}": Scalar(grad_norm(members), "equal") for group, members in groups.items()}
