"""What learns of a model where not all of it does, and what the rest takes: counted from the model's sizes."""

import math
from dataclasses import dataclass

from sana.config.training.adapter_names import adapter_targets, fp8_cast_takes
from sana.config.training.method import LoraMethod
from sana.config.training.optimization.optimizer import AdafactorConfig, MuonConfig
from sana.config.training.optimization.parameter_names import Shapes, learned_shapes, muon_matrices, names_within
from sana.config.training.train import TrainConfig
from sana.costs.parameter_shapes import parameter_shapes
from sana.costs.transformer import TransformerSizes

_BLOCKS = "transformer_blocks."
_FP32 = 4
# bytes a token and channel of the width that a block whose own weights stay does not save: inputs of its products
_INPUTS = {"fp32": 32, "autocast": 26}


@dataclass(frozen=True)
class Learned:
    """Parameters that learn, and bytes of the weights that stay, as they are stored; both also of all blocks alone."""

    shapes: Shapes
    num_parameters: int
    in_blocks: int
    fixed_bytes: int
    fixed_in_blocks: int
    is_shared: bool  # with sharding each rank holds a part of what stays
    is_cast: bool  # autocast makes bf16 copies of a block's weights, which its backward pass needs
    added_per_token: int  # bytes of activations of a block, beside those of one whose weights learn; negative for fewer


def training_passes(config: TrainConfig, sizes: TransformerSizes) -> float:
    """Return the FLOPs of a step in those of the model's forward pass, what is computed again not counted.

    A pass forward, one for the gradients of inputs, and one for those of weights, of which only those that learn have
    any; an adapter has three passes of its own.
    """
    learned = learned_part(config, sizes)
    if learned is None:
        return 3.0
    share = learned.num_parameters / sizes.num_parameters
    return 2.0 + (share if config.method.name == "full" else 3.0 * share)


def learned_part(config: TrainConfig, sizes: TransformerSizes) -> Learned | None:
    """Return what learns under a config; None: all of the model. Raises ConfigError: a target can have no adapter."""
    if not isinstance(config.method, LoraMethod) and not config.frozen:
        return None
    shapes = parameter_shapes(sizes)
    config = names_within(config, shapes)  # a calibration counts fewer blocks
    method = config.method
    learns = learned_shapes(config, shapes)
    stored = {name: _stored_bytes(config, name, shape) for name, shape in shapes.items() if name not in learns}
    is_adapter = isinstance(method, LoraMethod)
    return Learned(
        shapes=learns,
        num_parameters=_count(learns),
        in_blocks=_count({name: shape for name, shape in learns.items() if name.startswith(_BLOCKS)}),
        fixed_bytes=round(sum(stored.values())),
        fixed_in_blocks=round(sum(size for name, size in stored.items() if name.startswith(_BLOCKS))),
        is_shared=config.base_weights == "plain",
        is_cast=not is_adapter,
        added_per_token=_added_per_token(method, shapes, sizes, config) if isinstance(method, LoraMethod) else 0,
    )


def partial_optimizer_bytes(config: TrainConfig, shapes: Shapes) -> int:
    """Return the bytes of the optimizer's state of parameters of these shapes."""
    name: str = config.optimizer.name
    num = _count(shapes)
    if isinstance(config.optimizer, MuonConfig):
        matrices = muon_matrices(config.optimizer, shapes)
        return _FP32 * (2 * num - _count({name: shapes[name] for name in matrices}))
    if isinstance(config.optimizer, AdafactorConfig) or name == "came":
        factored = sum(_factored(shape) for shape in shapes.values())
        return _FP32 * (num + 2 * factored if name == "came" else factored)
    of_each = {"adamw_bf16": 4.0, "adamw_8bit": 2 * (1 + 4 / 256), "prodigy": 16.0, "optimi_adamw": 8.0}
    if name == "optimi_adamw" and config.weights_dtype == "bf16":
        return 6 * num
    return round(of_each.get(name, 8.0) * num)


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _factored(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]


def _stored_bytes(config: TrainConfig, name: str, shape: tuple[int, ...]) -> float:
    """Return the bytes of a parameter that stays; biases of products are as their weights are."""
    num = math.prod(shape)
    if not isinstance(config.method, LoraMethod):
        return num * (2 if config.weights_dtype == "bf16" else _FP32)
    is_product = name.endswith(".weight") and len(shape) >= 2
    if is_product and config.base_weights == "fp8_cast" and fp8_cast_takes(name.removesuffix(".weight")):
        return num
    grouped = len(shape) > 2 and shape[1] == 1
    if is_product and config.base_weights in ("int8", "fp8") and name.startswith(_BLOCKS) and not grouped:
        return num + _FP32 * shape[0]
    return num * (2 if is_product and config.mixed_precision == "bf16" else _FP32)


def _added_per_token(method: LoraMethod, shapes: Shapes, sizes: TransformerSizes, config: TrainConfig) -> int:
    """Return the bytes that a block saves of a token for its adapters, less the inputs of products that it need not.

    Of one block, the one with most adapters. Autocast saves what convolutions' A reads once more in bf16; DoRA two
    tensors of each output; dropout a mask of each input, and in fp32 what it leaves.
    """
    precision = "autocast" if config.mixed_precision == "bf16" else "fp32"
    element = 2 if precision == "autocast" else 4
    of_block: dict[str, int] = {}
    for target in adapter_targets(method, shapes):
        if not target.startswith(_BLOCKS):
            continue
        outputs, inputs, *kernel = shapes[f"{target}.weight"]
        added = element * method.rank
        if kernel and precision == "autocast":
            added += element * inputs
        if method.use_dora:
            added += 2 * element * outputs
        if method.dropout:
            added += inputs * (1 if precision == "autocast" else 5)
        block = target.split(".")[1]
        of_block[block] = of_block.get(block, 0) + added
    return max(of_block.values(), default=0) - _INPUTS[precision] * sizes.width
