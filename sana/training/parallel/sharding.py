"""Sharding by torch's FSDP2: each rank holds a part of every weight, gradient, moment and EMA weight.

A block's weights are whole on a rank only while it computes with them. They are stored, gathered and reduced in
float32, and autocast casts them as it does without sharding: the same numbers, for twice the traffic of bf16 gathers.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor, zeros
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from sana.errors import ConfigError
from sana.training.regularizers.projector import Projector
from sana.training.trainables.trainable import Trainable

Sharding = Literal["none", "full", "hybrid"]


def open_mesh(sharding: Literal["full", "hybrid"], device: torch.device, num_ranks: int) -> DeviceMesh:
    """Return the ranks among which weights are shared: all, or those of a machine, with a copy on each machine.

    Raises:
        ConfigError: hybrid, and machines have different numbers of ranks.
    """
    if sharding == "full":
        return init_device_mesh(device.type, (num_ranks,), mesh_dim_names=("shard",))
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))
    if num_ranks % on_machine:
        raise ConfigError(
            f"train.resources.sharding hybrid needs as many ranks on each machine; there are {num_ranks} ranks, "
            f"{on_machine} of them on this one (LOCAL_WORLD_SIZE); start as many everywhere, or set it to full"
        )
    shape = (num_ranks // on_machine, on_machine)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard(trainable: Trainable, mesh: DeviceMesh, device: torch.device) -> None:
    """Shard the model in place, block by block, from rank 0's weights; tensors of `trainable` are then shards.

    No rank needs memory on the device for more than its shards and one block.
    """
    # twice a step, on each rank; what the model returns is never changed in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    model = trainable.model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    learned = {name: names[id(parameter)] for name, parameter in trainable.parameters.items()}
    fixed = {name: names[id(parameter)] for name, parameter in trainable.fixed.items()}
    # resharded everywhere: weights that stay whole would hide a swap with EMA weights from the next forward pass
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in [*_blocks(model), *_apart(model), model]:
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)
                torch.distributed.broadcast(parameter.data, src=0)
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    trainable.parameters = {name: model.get_parameter(path) for name, path in learned.items()}
    trainable.fixed = {name: model.get_parameter(path) for name, path in fixed.items()}


def _blocks(model: nn.Module) -> list[nn.Module]:
    return list(cast(nn.ModuleList, model.transformer_blocks))


def _apart(model: nn.Module) -> list[nn.Module]:
    """Return what is called by itself, after the model's forward pass, when all of that is sharded again."""
    return [child for child in model.children() if isinstance(child, Projector)]


@contextmanager
def gradients_of_shards(model: nn.Module, *, exchanged: bool) -> Iterator[None]:
    """Around a backward pass: before a step's last one, gradients stay whole on each rank, and so do the weights."""
    sharded = cast(FSDPModule, model)
    sharded.set_requires_gradient_sync(exchanged)
    sharded.set_reshard_after_backward(exchanged)
    yield


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, which shares its memory; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor whole, on every rank's device; another tensor as it is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sum_of_shards(partial: Tensor, of: Tensor) -> Tensor:
    """Return the sum of what each rank has of its shards of a tensor, on each of them; of a whole one as it is."""
    if not isinstance(of, DTensor):
        return partial
    torch.distributed.all_reduce(partial, group=of.device_mesh.get_group("shard"))
    return partial


def zeros_beside(parameter: Tensor, shape: tuple[int, ...], *, is_whole: bool = False) -> Tensor:
    """Return zeros of a parameter's dtype, sharded by the first dimension as it is; `is_whole`: on every rank."""
    if is_whole or not isinstance(parameter, DTensor):
        return torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
    return zeros(shape, dtype=parameter.dtype, device_mesh=parameter.device_mesh, placements=parameter.placements)


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return of a whole tensor, which every rank has, this rank's part, as it has of `like`; all if that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    shape, offset = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    return tensor[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]


@torch.no_grad()
def fill(shards: DTensor, found: Tensor | None, *, is_main: bool) -> None:
    """Fill a sharded tensor with rank 0's `found`, of which each rank gets its part. Collective."""
    if is_main:
        assert found is not None
        source = found.to(shards.device, shards.dtype)
    else:
        source = torch.empty(shards.shape, dtype=shards.dtype, device=shards.device)
    parts = distribute_tensor(source, shards.device_mesh, shards.placements)
    local(shards).copy_(local(parts))
