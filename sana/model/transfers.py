"""Tensors between the host and a GPU while it computes: through pinned memory, and nothing waits before it must.

On a CPU the same functions copy nothing.
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor


class DeviceCopy:
    """Copies of host tensors on a device, which begin now on a stream of its own; any thread may begin them.

    On a CPU they are the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._device = device
        self._copied: torch.cuda.Event | None = None
        if device.type != "cuda":
            self._copies = {name: tensor.to(device) for name, tensor in tensors.items()}
            return
        stream = _stream(device)
        with torch.cuda.stream(stream):
            # torch keeps pinned memory, for the next of this size
            self._copies = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
            self._copied = stream.record_event()

    def take(self) -> dict[str, Tensor]:
        """Return the copies: what this thread launches from here on waits for them, the host does not."""
        if self._copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._copied)
            for copy in self._copies.values():
                copy.record_stream(current)  # else it could be overwritten by a later copy while it is read
        return self._copies


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device on a stream of its own; what is launched after it waits for it, the host not."""
    return DeviceCopy({"": tensor}, device).take()[""]


class HostCopy:
    """A copy of a tensor to the host, which begins now, behind what computes it; on a CPU it is the tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.current_stream(tensor.device).record_event()

    def wait(self) -> Tensor:
        """Return the copy once it is whole, in ordinary memory: pinned memory is scarce, and used again."""
        if self._copied is None:
            return self._copy
        self._copied.synchronize()
        return self._copy.clone()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
