"""Settings that `train.method` excludes although each is valid by itself."""

from sana.config.training.method import LoraMethod, MethodConfig
from sana.config.training.optimizer_support import SUPPORT, names_with
from sana.config.training.resources import TrainResources


def method_conflict(
    method: MethodConfig, resources: TrainResources, *, optimizer: str, weights_dtype: str
) -> str | None:
    """Return what does not go with `method`, and the nearest that does; None: all goes."""
    if not isinstance(method, LoraMethod):
        return None
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
    )
    return next((said for holds, said in rules if holds), None)
