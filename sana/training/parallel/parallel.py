"""What ranks do together: the wrapped model, gradients, clipping, sums, and the state on all of them.

Every rank holds the whole state, or, with `train.resources.sharding`, its part of each tensor. All methods but
`autocast` are collective: every rank calls them, in the same order.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana.config.training.offload import GroupOffload
from sana.config.training.train import TrainConfig
from sana.errors import ConfigError
from sana.model.precision import MODEL_MATH, Float32Math, float32_math
from sana.training.offload.block_offload import BlockOffload
from sana.training.parallel.distributed import open_accelerator
from sana.training.parallel.sharding import Sharding, fill, gradients_of_shards, local, open_mesh, shard, whole
from sana.training.trainables.trainable import Trainable

Parts = Mapping[str, Mapping[str, Tensor]]  # of a checkpoint: part, name of a tensor

T = TypeVar("T")


class Parallel:
    """The ranks of a run; one process is the same with one rank."""

    def __init__(
        self,
        accelerator: Accelerator,
        math: Float32Math,
        sharding: Sharding = "none",
        offload: GroupOffload | None = None,
    ) -> None:
        self._accelerator, self._math = accelerator, math
        self._offload_config = offload or GroupOffload()
        self._sharding: Sharding = sharding if accelerator.num_processes > 1 else "none"  # one rank has all
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.num_ranks: int = accelerator.num_processes
        self.is_main = self.rank == 0

    @classmethod
    def open(cls, config: TrainConfig) -> "Parallel":
        """Join the other ranks, if there are any. Raises ConfigError: the device is not there."""
        resources = config.resources
        return cls(open_accelerator(config), MODEL_MATH[config.mixed_precision], resources.sharding, resources.offload)

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds its part of every tensor."""
        return self._sharding != "none"

    def place(self, model: nn.Module) -> None:
        """Move a model to the device, all but what `train.resources.offload` keeps in the host's memory."""
        if not self._offload_config.is_on:
            model.to(self.device)
            return
        if self.num_ranks > 1:
            raise ConfigError(
                f"train.resources.offload works with one rank, but {self.num_ranks} were started: their gradients are "
                "exchanged on the device; set it to none, or start one"
            )
        BlockOffload(model, self._offload_config, self.device)

    def wrap(self, trainable: Trainable) -> nn.Module:
        """Move the model to the device, and return what is called in training: ranks exchange gradients through it."""
        if self._sharding != "none":
            shard(trainable, open_mesh(self._sharding, self.device, self.num_ranks), self.device)
            return trainable.model
        self.place(trainable.model)
        # kernels of 1x1 convolutions have gradients in channels last, which are then copied to be exchanged
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        wrapped: nn.Module = self._accelerator.prepare_model(trainable.model, device_placement=False)
        return wrapped

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in `train.mixed_precision` within it."""
        # sharded weights are freed after each block: the casts of all of them must not stay
        cast = AutocastKwargs(cache_enabled=not self.is_sharded)
        with float32_math(self._math), self._accelerator.autocast(autocast_handler=cast):
            yield

    def casts_once(self) -> AbstractContextManager[None]:
        """Within it autocast casts each weight once, for all forward passes: the weights must not change meanwhile.

        autocast forgets its copies at the end of the outermost context; this one computes in nothing else by itself.
        """
        return nullcontext() if self.is_sharded else torch.autocast(self.device.type, enabled=False)

    def gradients(self, wrapped: nn.Module, *, exchanged: bool) -> AbstractContextManager[None]:
        """Around a backward pass: ranks exchange gradients once a step, with its last micro batch."""
        if self.is_sharded:
            return gradients_of_shards(wrapped, exchanged=exchanged)
        return nullcontext() if exchanged else self._accelerator.no_sync(wrapped)

    def backward(self, partial_loss: Tensor) -> None:
        """Add the gradients of this rank's part of the loss; the loss is the sum of all ranks' parts."""
        with float32_math(self._math):
            self._accelerator.backward(partial_loss * self.num_ranks)  # the exchange averages over ranks

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to a norm; returns the norm before, a scalar that is equal on all ranks."""
        parameters = list(parameters)
        if all(parameter.dtype == torch.float32 for parameter in parameters):
            norm: Tensor = self._accelerator.clip_grad_norm_(parameters, max_norm)
            return whole(norm.detach()).to(self.device)
        norm = self.grad_norm(parameters)
        factor = (max_norm / (norm + 1e-6)).clamp_(max=1.0)  # as torch's own
        for gradients in _by_device(local(p.grad) for p in parameters if p.grad is not None):
            torch._foreach_mul_(gradients, factor.to(gradients[0].device))
        return norm

    def grad_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the norm of all gradients, a scalar that is equal on all ranks; they stay as they are."""
        gradients = [p.grad.detach() for p in parameters if p.grad is not None]
        if all(gradient.dtype == torch.float32 for gradient in gradients):
            return whole(torch.nn.utils.get_total_norm(gradients)).to(self.device)
        # torch's own would be rounded to bf16
        each = [torch._foreach_norm(some, 2.0, dtype=torch.float32) for some in _by_device(gradients)]
        norms = [norm.to(self.device) for some in each for norm in some]
        return whole(torch.linalg.vector_norm(torch.stack(norms)))

    def largest(self, number: int) -> int:
        """Return the largest of the ranks' numbers, on each of them."""
        return int(-self.smallest(-number))

    def smallest(self, number: float) -> float:
        """Return the smallest of the ranks' numbers, on each of them."""
        smallest = torch.tensor(number, dtype=torch.float64, device=self.device)
        if self.num_ranks > 1:
            torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
        return float(smallest)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, on each of them."""
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def broadcast(self, values: list[T]) -> list[T]:
        """Return rank 0's values; the list has the same length on every rank."""
        return broadcast_object_list(list(values)) if self.num_ranks > 1 else values

    def gather_tensor(self, tensor: Tensor, owner: int) -> Tensor | None:
        """Return the whole tensor on rank `owner`, None on the others."""
        found = whole(tensor)
        return found if self.rank == owner else None

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return whole tensors, on rank 0 at least: sharded ones in the host's memory, one after the other."""
        if not self.is_sharded:
            return tensors
        gathered = {}
        for name, tensor in tensors.items():
            if (found := self.gather_tensor(tensor, owner=0)) is not None:
                gathered[name] = found.cpu()
        return gathered

    @torch.no_grad()
    def scatter(self, found: Parts | None, into: Parts) -> None:
        """Fill the state's tensors, one after the other, with those that rank 0 read; None: with rank 0's own.

        Rank 0 alone reads checkpoints, so ranks cannot disagree on one.
        """
        is_found = self.broadcast([found is not None])[0]
        for part, tensors in into.items():
            for name, tensor in tensors.items():
                if isinstance(tensor, DTensor):
                    if is_found:  # else each has its shards of rank 0's already
                        fill(tensor, found[part][name] if found is not None else None, is_main=self.is_main)
                    continue
                if found is not None:
                    tensor.copy_(found[part][name])
                if self.num_ranks > 1:
                    on_device = tensor.to(self.device)  # some are in the host's memory, of which NCCL sends nothing
                    torch.distributed.broadcast(on_device, src=0)
                    tensor.copy_(on_device)

    def finish(self) -> None:
        """Wait for all ranks, then leave: a rank that leaves early would look like a failed one."""
        self._accelerator.wait_for_everyone()
        self._accelerator.end_training()


def _by_device(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return tensors by their device: with offload some are in the host's memory."""
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return list(found.values())
