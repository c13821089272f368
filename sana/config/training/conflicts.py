"""Settings of training that exclude one another although each is valid by itself."""

from sana.config.training.optimization.optimizer_support import SUPPORT, names_with
from sana.config.training.resources import TrainResources


def fused_backward_conflict(
    resources: TrainResources, *, optimizer: str, max_skipped_steps: int, gradient_clipping: str, global_batch_size: int
) -> str | None:
    """Return what does not go with `resources.fused_backward`, and the nearest that does; None: all goes."""
    if not resources.fused_backward:
        return None
    ranks, micro = resources.num_processes, resources.micro_batch_size
    rules = (
        (
            gradient_clipping == "norm",
            "resources.fused_backward frees each gradient before the norm of all is known, which gradient_clipping "
            "norm scales them by; set gradient_clipping to value (with max_grad_value, such as 0.1) or none",
        ),
        (
            ranks > 1,
            f"resources.fused_backward works with one rank, not num_processes {ranks}: ranks exchange gradients before "
            "a step; use num_processes 1 with it, or sharding full without it",
        ),
        (
            resources.sharding != "none",
            f"resources.fused_backward works with whole weights, and sharding {resources.sharding} has parts of them; "
            "use sharding none with it",
        ),
        (
            global_batch_size > ranks * micro,
            f"resources.fused_backward steps in each backward pass, and global_batch_size {global_batch_size} adds up "
            f"those of {global_batch_size // micro} micro batches; set resources.micro_batch_size to "
            f"{global_batch_size}, or global_batch_size to {micro}",
        ),
        (
            max_skipped_steps > 0,
            f"max_skipped_steps {max_skipped_steps} decides when all gradients are known, and with "
            "resources.fused_backward the step is taken by then; use max_skipped_steps 0",
        ),
        (
            resources.offload.is_on,
            f"resources.fused_backward frees gradients of the device, where offload.type {resources.offload.type} "
            "leaves none; use one of the two",
        ),
        (
            not SUPPORT[optimizer].fused_backward,
            f"optimizer.name {optimizer} does not step parameter by parameter here, as resources.fused_backward does; "
            f"use one of {names_with('fused_backward')}",
        ),
    )
    return next((said for holds, said in rules if holds), None)


def offload_conflict(resources: TrainResources, *, optimizer: str, max_skipped_steps: int) -> str | None:
    """Return what does not go with `resources.offload`, and the nearest that does; None: all goes."""
    offload = resources.offload
    if not offload.is_on:
        return None
    kept = resources.activation_memory
    rules = (
        (
            offload.type == "leaf_level",
            "resources.offload.type leaf_level is for weights that do not learn (sample.resources.offload): in "
            "training the backward pass needs a whole block's weights at once; use block_level with blocks_per_group 1",
        ),
        (
            bool(offload.to_disk_path),
            f"resources.offload.to_disk_path {offload.to_disk_path} is for weights that do not learn: in training all "
            "weights change at every step; leave it empty",
        ),
        (
            resources.num_processes > 1,
            f"resources.offload works with one rank, not num_processes {resources.num_processes}: ranks exchange their "
            "gradients on the device; use num_processes 1 with offload, or sharding full without it",
        ),
        (
            resources.sharding != "none",
            f"resources.offload keeps whole weights in the host's memory, and sharding {resources.sharding} parts of "
            "them on each device; use sharding none with offload, or offload.type none",
        ),
        (
            not isinstance(kept, str) and kept > 0,
            f"resources.offload saves no memory with activation_memory {kept}: what is kept for the backward pass "
            "keeps the weights on the device too; use auto or recompute_all",
        ),
        (
            max_skipped_steps > 0,
            f"max_skipped_steps {max_skipped_steps} is decided on the device, and with resources.offload the optimizer "
            "steps on the CPU; use max_skipped_steps 0, or resources.offload.type none",
        ),
        (
            not SUPPORT[optimizer].offload,
            f"optimizer.name {optimizer} adds up numbers of all weights, which resources.offload has on two devices; "
            f"use one of {names_with('offload')}, or resources.offload.type none",
        ),
    )
    return next((said for holds, said in rules if holds), None)
