"""Distributed training: joining the other ranks, and agreeing to stop."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from sana.config.training.train import TrainConfig
from sana.errors import ConfigError

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the other ranks wait while rank 0 uploads a checkpoint


def open_accelerator(config: TrainConfig) -> Accelerator:
    """Join the other ranks, if there are any, on the device that the config asks for.

    Raises:
        ConfigError: the device is not there.
    """
    device = config.resources.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.resources.device is cuda, but torch sees no GPU here; use auto or cpu")
    return Accelerator(
        # bf16 weights compute in bf16 by themselves
        mixed_precision="bf16" if config.mixed_precision == "bf16" and config.weights_dtype == "fp32" else "no",
        cpu=device == "cpu",
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy of all gradients
        ],
    )


class StopFlag:
    """A request to stop, made on any rank and seen by all of them at the same step."""

    def __init__(self, num_ranks: int) -> None:
        self._requested = False
        # a group of its own on the CPU: a check at every step must not wait for the GPU
        self._group = torch.distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if num_ranks > 1 else None

    def request(self) -> None:
        """Request a stop; safe in a signal handler."""
        self._requested = True

    def clear(self) -> None:
        """Take this rank's request back, after all ranks have seen it."""
        self._requested = False

    def agreed(self) -> bool:
        """Return whether any rank requested a stop: the same on all ranks, which all must call it."""
        if self._group is None:
            return self._requested
        flag = torch.tensor([self._requested], dtype=torch.int32)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag.item())
