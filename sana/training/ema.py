"""The exponential moving average of the weights."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from sana.model.offload.host_memory import HostMemory
from sana.training.guards.skipped_steps import put_back
from sana.training.parallel.sharding import local


def decay_at(num_updates: int, decay: float) -> float:
    """Return `min(decay, (1 + n) / (10 + n))` for the update after `n` earlier ones: 0.1 at first.

    The warm-up of TensorFlow's `tf.train.ExponentialMovingAverage` (argument `num_updates`), also in diffusers'
    `EMAModel.get_decay`: without it the initial weights would dominate for 1 / (1 - decay) steps.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class Ema:
    """The EMA weights, float32: `shadow <- d shadow + (1 - d) weights`.

    They are beside the parameters that learn, or, `on_cpu`, in the host's memory, and are then moved by a thread of
    their own while the next step's gradients are computed. Weights on a GPU are copied for it into pinned memory by a
    stream of its own. The CPU may round an update otherwise than a GPU does, by one unit in the last place.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, *, on_cpu: bool = False) -> None:
        self._decay = decay
        self._live = parameters
        self._shadow: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._live.items()
        }
        self._moves: _MovesBehind | None = None
        if on_cpu:
            memory = HostMemory()
            self._shadow = {name: memory.holding(tensor) for name, tensor in self._shadow.items()}
            self._moves = _MovesBehind(list(self._live.values()), list(self._shadow.values()))

    @property
    def shadow(self) -> dict[str, Tensor]:
        """The EMA weights themselves, not copies, after every update that was asked for."""
        self.finish()
        return self._shadow

    def update(self, num_updates: int, skip: Tensor | None = None) -> None:
        """Move towards the live weights, after `num_updates` earlier updates (that is, optimizer steps).

        If `skip`, a bool scalar on the device, they stay.
        """
        weight = 1.0 - decay_at(num_updates, self._decay)
        if self._moves is not None:
            self._moves.start(weight, skip)
        else:
            _move(
                [local(tensor) for tensor in self._shadow.values()],
                [local(parameter.detach()) for parameter in self._live.values()],
                weight,
                skip,
            )

    def finish(self) -> None:
        """Wait for an update that runs beside training: call it before the live weights change."""
        if self._moves is not None:
            self._moves.finish()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the EMA weights; afterwards the live ones again, bit for bit.

        Float32 parameters need no more memory for it than one tensor. Others are kept beside, and the model has the EMA
        weights rounded to their dtype; the EMA weights themselves stay float32.
        """
        rounded = any(parameter.dtype != torch.float32 for parameter in self._live.values())
        live = [parameter.detach().clone() for parameter in self._live.values()] if rounded else None
        if live is None:
            scratch = self._scratch()  # all that exchanging needs: memory that runs out in the midst would mix the two
            self._swap(scratch)
        try:
            if live is not None:
                _fill(self._live.values(), self.shadow.values())
            yield
        finally:
            self._swap(scratch) if live is None else _fill(self._live.values(), live)

    def _scratch(self) -> dict[torch.device, Tensor]:
        """Return room for the largest weight of each device."""
        sizes: dict[torch.device, int] = {}
        for parameter in self._live.values():
            mine = local(parameter.detach())
            sizes[mine.device] = max(mine.numel(), sizes.get(mine.device, 0))
        return {device: torch.empty(size, dtype=torch.float32, device=device) for device, size in sizes.items()}

    @torch.no_grad()
    def _swap(self, scratch: dict[torch.device, Tensor]) -> None:
        shadow = self.shadow
        for name, parameter in self._live.items():
            mine, theirs = local(parameter), local(shadow[name])
            live = scratch[mine.device][: mine.numel()].view(mine.shape).copy_(mine)
            mine.copy_(theirs)
            theirs.copy_(live)


class _MovesBehind:
    """Moves EMA weights in the host's memory by a thread, one update at a time."""

    def __init__(self, live: list[nn.Parameter], shadow: list[Tensor]) -> None:
        self._live, self._shadow = live, shadow
        memory = HostMemory()
        self._copies = {i: memory.empty_like(shadow[i]) for i, weight in enumerate(live) if weight.is_cuda}
        self._stream: torch.cuda.Stream | None = torch.cuda.Stream() if self._copies else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "ema")
        self._pending: Future[None] | None = None
        self._skip: Tensor | None = None

    def start(self, weight: float, skip: Tensor | None) -> None:
        self.finish()
        live = [parameter.detach() for parameter in self._live]
        copied = None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # after the optimizer's step
            with torch.cuda.stream(self._stream):
                self._skip = skip  # its memory must stay until it is copied
                if skip is not None:
                    skip = torch.empty_like(skip, device="cpu", pin_memory=True).copy_(skip, non_blocking=True)
                for i, copy in self._copies.items():
                    live[i] = copy.copy_(live[i], non_blocking=True)
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record()
        self._pending = self._thread.submit(self._run, copied, live, weight, skip)

    def _run(self, copied: torch.cuda.Event | None, live: list[Tensor], weight: float, skip: Tensor | None) -> None:
        if copied is not None:
            copied.synchronize()
        if skip is None or not skip:
            _move(self._shadow, live, weight)

    def finish(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


@torch.no_grad()  # in each thread by itself
def _move(shadow: list[Tensor], live: list[Tensor], weight: float, skip: Tensor | None = None) -> None:
    if skip is None and all(tensor.dtype == torch.float32 for tensor in live):
        torch._foreach_lerp_(shadow, live, weight)
        return
    for before, tensor in zip(shadow, live, strict=True):  # one by one: no more memory than one tensor
        with nullcontext() if skip is None else put_back(skip, [before]):
            before.lerp_(tensor.to(torch.float32), weight)


@torch.no_grad()
def _fill(parameters: Iterable[nn.Parameter], tensors: Iterable[Tensor]) -> None:
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.copy_(tensor)
