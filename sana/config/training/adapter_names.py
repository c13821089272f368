"""Which layers an adapter is put beside, and the names and shapes of what learns then; without torch."""

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from sana.config.training.method import LoraMethod
from sana.errors import ConfigError
from sana.wording import first_of

Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by name

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TARGET_GROUPS = {
    "self_attention": tuple(f"attn1.{name}" for name in _ATTENTION),
    "cross_attention": tuple(f"attn2.{name}" for name in _ATTENTION),
    "feed_forward": ("ff.conv_inverted", "ff.conv_point", "ff.conv_temp"),
}
A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"  # as PEFT names them in files
_WEIGHT = ".weight"
# diffusers' rule of layerwise casting: its own patterns and those of SanaVideoTransformer3DModel
_NOT_CAST = re.compile(r"pos_embed|patch_embed|norm|^proj_in$|^proj_out$")


def adapter_targets(method: LoraMethod, shapes: Shapes, *, key: str = "train.method.targets") -> list[str]:
    """Return the names of the layers that get an adapter, in the model's order; `shapes` are the model's parameters'.

    `key` is what names the targets, in errors.

    Raises:
        ConfigError: a target matches no layer, or one that can have no adapter.
    """
    layers = [name.removesuffix(_WEIGHT) for name, shape in shapes.items() if _is_layer(name, shape)]
    found: set[str] = set()
    for index, target in enumerate(method.targets):
        matching = {layer for layer in layers if any(_matches(layer, glob) for glob in _globs(target))}
        said = f"{key}.{index} is {target!r}"
        if not matching:
            raise ConfigError(f"{said}, and no layer has such a name; name {_known(layers)}")
        grouped = sorted(layer for layer in matching if _is_grouped(shapes[layer + _WEIGHT]))
        if grouped:
            raise ConfigError(
                f"{said}, which matches {first_of(grouped[:1], len(grouped))}: each channel of a grouped convolution "
                "has a kernel of its own, which no product of two small matrices changes; name feed_forward, which is "
                "conv_inverted, conv_point and conv_temp"
            )
        found |= matching
    return [layer for layer in layers if layer in found]


def adapter_shapes(method: LoraMethod, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the adapter, by the names of PEFT's files without their prefix.

    Raises:
        ConfigError: as `adapter_targets`.
    """
    found: dict[str, tuple[int, ...]] = {}
    for layer in adapter_targets(method, shapes):
        outputs, *inputs = shapes[layer + _WEIGHT]
        kernel = (1,) * (len(inputs) - 1)  # of a convolution; A has that of the layer, B looks at one place
        found[f"{layer}.{A}"] = (method.rank, *inputs)
        found[f"{layer}.{B}"] = (outputs, method.rank, *kernel)
        if method.use_dora:
            found[f"{layer}.{MAGNITUDE}"] = (1, outputs, *kernel) if kernel else (outputs,)
    return found


def has_target(target: str, shapes: Shapes) -> bool:
    """Whether one of `targets` matches a layer."""
    layers = (name.removesuffix(_WEIGHT) for name, shape in shapes.items() if _is_layer(name, shape))
    return any(_matches(layer, glob) for layer in layers for glob in _globs(target))


def fp8_cast_takes(layer: str) -> bool:
    """Whether diffusers' layerwise casting stores a layer of this name in fp8, where it is linear or a convolution."""
    return _NOT_CAST.search(layer) is None


def _is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(_WEIGHT) and len(shape) >= 2


def _is_grouped(shape: tuple[int, ...]) -> bool:
    """Whether a kernel looks at one channel of several: those of this model are grouped by channel, or not."""
    return len(shape) > 2 and shape[1] == 1


def _globs(target: str) -> Collection[str]:
    return tuple(f"transformer_blocks.*.{layer}" for layer in TARGET_GROUPS.get(target, ())) or (target,)


def _matches(layer: str, glob: str) -> bool:
    """Whether a glob matches a layer's whole name, or the end of it after a dot."""
    return fnmatchcase(layer, glob) or fnmatchcase(layer, f"*.{glob}")


def _known(layers: Collection[str]) -> str:
    """Return how targets can be named."""
    ends = sorted({".".join(layer.split(".")[2:]) for layer in layers if layer.startswith("transformer_blocks.")})
    return f"{', '.join(TARGET_GROUPS)}, or one or a glob of {', '.join(ends)}"
