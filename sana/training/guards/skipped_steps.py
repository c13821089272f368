"""Steps that are not taken because their loss or gradient is not finite: decided and counted on the device.

A skipped step leaves weights, moments and EMA as they were, bit for bit, and the next step's bias corrections and EMA
decay count the steps that were taken. Its number, its samples and its learning rate are used up.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

SKIPPED_STEPS = "skipped_steps"  # the count's name in a checkpoint


class SkippedSteps:
    """Counts them; `count` (int64, a scalar on the device) is part of a checkpoint."""

    def __init__(self, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.num_before = 0  # of the step that was decided last: how many before it were skipped
        self._on_gpu = device.type == "cuda"
        # the count after the step before, on the host: pinned, so that the device is not waited for
        self._copy = torch.zeros((), dtype=torch.int64)
        self._copied: torch.cuda.Event | None = None
        if self._on_gpu:
            self._copy = self._copy.pin_memory()
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def decide(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Return whether this step is skipped, a bool scalar on the device, and count it.

        `loss` and `grad_norm` are equal on all ranks, so the answer is. What is waited for is the step before, which
        ended long ago: this one's gradients are still being computed.
        """
        self._settle()
        measured = [number.detach().to(self.count.device, torch.float32) for number in (loss, grad_norm)]
        skip = ~torch.isfinite(torch.stack(measured)).all()
        self.count += skip
        if self._copied is not None:
            self._copy.copy_(self.count, non_blocking=True)
            self._copied.record()
        return skip

    def restored(self) -> None:
        """Take over the count that a checkpoint filled in."""
        self._copy.copy_(self.count)
        self.num_before = int(self._copy)
        if self._copied is not None:
            self._copied.record()

    def _settle(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
            self.num_before = int(self._copy)
        else:
            self.num_before = int(self.count)


@contextmanager
def put_back(skip: Tensor, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards the tensors are as they were before, bit for bit, if `skip`; needs memory for a copy of them."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    local = [tensor.detach() for tensor in local]
    copies = [tensor.clone() for tensor in local]
    yield
    for tensor, copy in zip(local, copies, strict=True):
        tensor.copy_(torch.where(skip.to(tensor.device), copy, tensor))
