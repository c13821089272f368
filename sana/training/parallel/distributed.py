"""Distributed training: joining the other ranks, and agreeing to stop."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from sana.config.training.train import TrainConfig
from sana.errors import ConfigError, RankLostError
from sana.runtime.job import EXIT_TERMINATED
from sana.training.parallel.joining import join_ranks

# as gloo, NCCL and the store write it
_CONNECTION = re.compile(
    r"connection (closed|reset|refused|was)|broken pipe|timed out (waiting|connecting)|gloo.*(socket|peer)|"
    r"NCCL.*(remote|unhandled system|timeout)|recvValue failed|no such rank|failed to recv|sendBytes failed",
    re.IGNORECASE | re.DOTALL,
)

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the other ranks wait while rank 0 uploads a checkpoint


def open_accelerator(config: TrainConfig) -> Accelerator:
    """Join the other ranks, if there are any, on the device that the config asks for.

    Raises:
        ConfigError: the device is not there, or there are fewer GPUs than ranks.
        RankLostError: not all ranks have come in time.
    """
    device = config.resources.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.resources.device is cuda, but torch sees no GPU here; use auto or cpu")
    _require_gpus(device)
    join_ranks(wait_s=config.resources.rendezvous_timeout_s, timeout=COLLECTIVE_TIMEOUT, device=device)
    return Accelerator(
        # bf16 weights compute in bf16 by themselves
        mixed_precision="bf16" if config.mixed_precision == "bf16" and config.weights_dtype == "fp32" else "no",
        cpu=device == "cpu",
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
            # no second copy of all gradients; buffers are constants, perhaps gigabytes of a base in 8 bits
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
        ],
    )


def _require_gpus(device: str) -> None:
    """Require a GPU for each rank that the launcher started: NCCL takes no two on one, and says so in its own words.

    Ranks that others started may each see their own GPU alone.
    """
    num_gpus, num_ranks = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cpu" and "SANA_PARENT_PID" in os.environ and 0 < num_gpus < num_ranks:
        raise ConfigError(
            f"train.resources.num_processes is {num_ranks}, but torch sees {num_gpus} GPUs here, and each rank needs "
            f"one; set it to {num_gpus}, or train.resources.device to cpu"
        )


class StopFlag:
    """A request to stop, made on any rank and seen by all of them at the same step.

    A request has the exit code that all ranks end with: the largest, where there are several.
    """

    def __init__(self, num_ranks: int) -> None:
        self._requested = 0
        self.exit_code = EXIT_TERMINATED  # of the request that all have agreed on
        # a group of its own on the CPU: a check at every step must not wait for the GPU
        self._group = torch.distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if num_ranks > 1 else None

    def request(self, exit_code: int = EXIT_TERMINATED) -> None:
        """Request a stop; safe in a signal handler, and as often as one likes."""
        self._requested = max(self._requested, exit_code)

    @property
    def requested(self) -> int:
        """The exit code that this rank was asked to end with; 0: it was not."""
        return self._requested

    def clear(self) -> None:
        """Take this rank's request back, after all ranks have seen it."""
        self._requested = 0

    def agreed(self) -> bool:
        """Return whether any rank requested a stop: the same on all ranks, which all must call it."""
        exit_code = self._requested
        if self._group is not None:
            flag = torch.tensor([exit_code], dtype=torch.int32)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
            exit_code = int(flag.item())
        self.exit_code = exit_code or self.exit_code
        return bool(exit_code)


@contextmanager
def lost_rank_explained(num_ranks: int) -> Iterator[None]:
    """Turn what torch raises when another rank is gone into a RankLostError."""
    try:
        yield
    except RuntimeError as error:
        if num_ranks > 1 and _CONNECTION.search(str(error)):
            line = str(error).strip().splitlines()[0]
            raise RankLostError(
                f"lost the connection to another rank ({line}): its process or machine is gone, and its own log may "
                "say why. What was saved is kept: start again, and training resumes from the newest checkpoint"
            ) from error
        raise
