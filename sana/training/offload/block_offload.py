"""Training and evaluating a transformer whose blocks' weights are in the host's memory.

Master weights, gradients and so the optimizer's state and its step are on the CPU; a block's weights are copied to the
device when it computes, in the forward pass and again when the backward pass recomputes it, and its gradients come
back as they are computed. Every step is that without offload: the arithmetic of the blocks is the same, bit for bit,
and that of the optimizer is the CPU's. (diffusers' group offload with streams is for frozen weights: it puts back the
copy of the weights that it made at the start, and so would drop every update.)
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sana.config.training.offload import GroupOffload
from sana.model.offload.host_memory import HostMemory
from sana.training.offload.block_weights import BlockWeights, HostGradients

BLOCKS = "transformer_blocks"  # diffusers' name for the list of blocks


class _Onload(torch.autograd.Function):
    """A master weight's copy on the device, whose gradient goes to the master by `HostGradients`."""

    @staticmethod
    def forward(ctx: Any, master: nn.Parameter, on_device: Tensor, gradients: HostGradients) -> Tensor:
        ctx.master, ctx.gradients = master, gradients
        return on_device.view_as(on_device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        ctx.gradients.send(ctx.master, grads[0])
        return None, None, None  # not to autograd, which would wait for each copy


class BlockOffload:
    """Takes over the blocks of a model in place; the names of its parameters stay, and they stay the masters.

    All but the blocks moves to `device`. Autograd must recompute each block (gradient checkpointing), else it keeps
    the copies of all blocks from the forward to the backward pass.
    """

    def __init__(self, model: nn.Module, config: GroupOffload, device: torch.device) -> None:
        blocks: list[nn.Module] = list(getattr(model, BLOCKS))
        assert config.is_on and not any(True for block in blocks for _ in block.buffers())
        in_blocks = {parameter for block in blocks for parameter in block.parameters()}
        memory = HostMemory()
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = memory.holding(tensor.data) if tensor in in_blocks else tensor.data.to(device)
        self._masters = [dict(block.named_parameters()) for block in blocks]
        self._weights = BlockWeights(
            self._masters, device, blocks_per_group=config.blocks_per_group, ahead=config.use_stream
        )
        self._gradients = HostGradients(device)
        # one shape without weights for all blocks, which are alike; each call lends it a block's weights
        self._shape = copy.deepcopy(blocks[0]).to("meta")
        if (compiled := getattr(blocks[0].forward, "of", None)) is not None:
            self._shape.forward = compiled(self._shape)
        model.register_forward_pre_hook(lambda *_: self._weights.begin())
        for index, block in enumerate(blocks):
            block.forward = _Forward(self, index, block)

    def compute(self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a block with copies of its weights."""
        self._gradients.collect()  # those of the block before, which have had the time of a block to arrive
        on_device = self._weights.fetch(index)
        weights = {
            name: _Onload.apply(master, on_device[name], self._gradients)  # type: ignore[no-untyped-call]
            for name, master in self._masters[index].items()
        }
        self._shape.train(block.training)
        return functional_call(self._shape, weights, args, kwargs)


class _Forward:
    """What a block's `forward` becomes."""

    def __init__(self, offload: BlockOffload, index: int, block: nn.Module) -> None:
        self._offload, self._index, self._block = offload, index, block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._offload.compute(self._index, self._block, args, kwargs)
