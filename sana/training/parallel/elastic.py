"""Joining the other ranks under torchrun, which may start them again."""

import os
import time
from datetime import timedelta

import torch

_STORE_PORT = "sana/store_port"
_CONNECT = timedelta(seconds=10)


def join_restarted_ranks(timeout: timedelta, *, device: str) -> None:
    """Open the process group of ranks that torchrun started through a store of their own; nothing elsewhere.

    torchrun's store outlives the ranks, so those of a second start would find the addresses of the first there. The
    port of ours is looked up in torchrun's: as long as it is that of an earlier start, nobody answers at it. Raises
    RuntimeError: rank 0 does not answer in time.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or torch.distributed.is_initialized():
        return
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if num_ranks == 1:
        return
    host = os.environ["MASTER_ADDR"]  # rank 0's machine
    of_torchrun = torch.distributed.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    if rank == 0:
        store = torch.distributed.TCPStore(host, 0, num_ranks, is_master=True, timeout=timeout, wait_for_workers=False)
        of_torchrun.set(_STORE_PORT, str(store.port))
    else:
        store = _connect(of_torchrun, host, timeout)
        store.set_timeout(timeout)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=num_ranks, timeout=timeout
    )


def _connect(of_torchrun: torch.distributed.TCPStore, host: str, timeout: timedelta) -> torch.distributed.TCPStore:
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        port = int(of_torchrun.get(_STORE_PORT))
        try:
            return torch.distributed.TCPStore(host, port, is_master=False, timeout=_CONNECT)
        except RuntimeError:  # of an earlier start, or rank 0 is not as far
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
