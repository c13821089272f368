"""Settings that `train.method` excludes although each is valid by itself, and the package that some need."""

from sana.config.training.method import BaseWeights, LoraMethod, MethodConfig
from sana.config.training.optimization.optimizer_support import SUPPORT, names_with, require_package
from sana.config.training.resources import TrainResources

_NOT_FULL = (
    "base_weights {} are of weights that stay, and with method full they learn: steps smaller than what 8 bits tell "
    "apart would be lost; use method lora, or for less memory optimizer.name adamw_bf16 with weights_dtype bf16, "
    "optimizer.name adafactor, or resources.offload.type block_level"
)


def method_conflict(
    method: MethodConfig,
    resources: TrainResources,
    *,
    optimizer: str,
    weights_dtype: str,
    base_weights: BaseWeights,
) -> str | None:
    """Return what does not go with `method`, and the nearest that does; None: all goes."""
    if not isinstance(method, LoraMethod):
        return None if base_weights == "plain" else _NOT_FULL.format(base_weights)
    rules = (
        (
            method.lora_plus_ratio != 1.0 and not SUPPORT[optimizer].factors,
            f"optimizer.name {optimizer} estimates one step size for all parameters, and method.lora_plus_ratio "
            f"{method.lora_plus_ratio:g} wants another for some; set it to 1, or use one of {names_with('factors')}",
        ),
        (
            weights_dtype == "bf16",
            "weights_dtype bf16 is of weights that learn, and those of an adapter, which are few, are fp32; leave "
            "weights_dtype fp32: with mixed_precision bf16 the model's own weights are in bf16 then anyway",
        ),
        (
            method.dropout > 0 and resources.offload.is_on,
            f"method.dropout {method.dropout:g} has a mask for each block, and resources.offload computes all blocks "
            "with one; set dropout to 0, or resources.offload.type to none",
        ),
        (
            base_weights != "plain" and resources.offload.is_on,
            f"base_weights {base_weights} are on the device, a byte for each, and resources.offload moves weights that "
            "are whole; set resources.offload.type to none, or base_weights to plain",
        ),
    )
    return next((said for holds, said in rules if holds), None)


def check_base_weights(base_weights: BaseWeights) -> None:
    """Check that what stores weights in 8 bits is installed. Raises ConfigError: it is not; says what to install."""
    if base_weights in ("int8", "fp8"):
        require_package(
            f"train.base_weights: {base_weights}", "torchao", (0, 18), otherwise="use fp8_cast, which needs none"
        )
