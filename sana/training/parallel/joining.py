"""Joining the other ranks of a training: a wait that is seen, has an end, and tells an earlier start from this one."""

import logging
import os
import socket
import time
from datetime import timedelta

import torch
from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, TCPStore

from sana.errors import RankLostError

_TORCHRUNS_PORT = "sana/store_port"
_ARRIVED, _WHERE, _ALL = "sana/arrived/{}", "sana/where/{}", "sana/all_arrived"
_CONNECT = timedelta(seconds=10)
_POLL_S = 0.3
SAY_EVERY_S = 30.0
_MAX_NAMED = 8

_log = logging.getLogger(__name__)


class Wait:
    """How long this rank has waited for the others, of how long it may."""

    def __init__(self, limit_s: float, *, say_every_s: float = SAY_EVERY_S) -> None:
        self.limit_s, self._say_every_s = limit_s, say_every_s
        self._began = self._said = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._began > self.limit_s

    def say(self, message: str) -> None:
        """Log what is waited for, now and then."""
        now = time.monotonic()
        if now - self._said >= self._say_every_s:
            self._said = now
            _log.warning("%s; waiting for %.0f s, at most %g s", message, now - self._began, self.limit_s)


def join_ranks(*, wait_s: float, timeout: timedelta, device: str) -> None:
    """Open the process group of the ranks that the environment names, once all are there; nothing for one rank.

    `wait_s` is how long to wait for the others, seconds; `timeout` is that of the group's exchanges afterwards.

    Raises:
        RankLostError: not all have come in time, or the port is taken.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1 or torch.distributed.is_initialized():
        return
    rank, wait = int(os.environ["RANK"]), Wait(wait_s)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    place = MeetingPlace(host, port, wait, of_torchrun=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
    store = meet(rank, num_ranks, place)
    store.set_timeout(timeout)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("sana/group", store),
        rank=rank,
        world_size=num_ranks,
        timeout=timeout,
    )


class MeetingPlace:
    """Where the ranks meet: at a store of rank 0.

    torchrun has one already, which outlives the ranks, so those of a second start would find the addresses of the first
    there. There it is only asked for the port of ours: as long as that is of an earlier start, nobody answers at it.
    """

    def __init__(self, host: str, port: int, wait: Wait, *, of_torchrun: bool = False) -> None:
        self.host, self.port, self.wait = host, port, wait
        self._torchruns: TCPStore | None = None
        if of_torchrun:
            self._torchruns = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=wait.limit_s))

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    def open(self, num_ranks: int) -> TCPStore:
        """Open the store, on rank 0. Raises RankLostError: the port is taken."""
        port = 0 if self._torchruns else self.port
        try:
            store = TCPStore(self.host, port, num_ranks, is_master=True, timeout=_CONNECT, wait_for_workers=False)
        except DistNetworkError as error:
            raise RankLostError(
                f"rank 0 cannot listen at {self.name}, where the ranks meet ({str(error).splitlines()[0]}): another "
                "training, or an earlier start that has not ended, has the port; set MASTER_PORT, or start again later"
            ) from error
        if self._torchruns:
            self._torchruns.set(_TORCHRUNS_PORT, str(store.port))
        return store

    def connect(self, rank: int) -> TCPStore:
        """Connect to the store of rank 0, which may not be there yet. Raises RankLostError: it never was."""
        while not self.wait.over:
            try:
                if self._torchruns is None or self._torchruns.check([_TORCHRUNS_PORT]):
                    return self._connect()
            except (OSError, DistNetworkError, DistStoreError):
                pass  # not yet
            self.wait.say(f"rank {rank}: rank 0 does not answer at {self.name}")
            time.sleep(_POLL_S)
        raise RankLostError(f"rank 0 of this start did not answer at {self.name}{_advice(self.wait)}")

    def _connect(self) -> TCPStore:
        if self._torchruns is not None:
            self.port = int(self._torchruns.get(_TORCHRUNS_PORT))
        # asked before torch asks, which prints a page for each refusal
        socket.create_connection((self.host, self.port), _CONNECT.total_seconds()).close()
        return TCPStore(self.host, self.port, is_master=False, timeout=_CONNECT)


def meet(rank: int, num_ranks: int, place: MeetingPlace) -> TCPStore:
    """Return a store of this start alone, when all ranks have written themselves down in it.

    Raises:
        RankLostError: not all came in time, or rank 0 cannot listen.
    """
    if rank == 0:
        store = place.open(num_ranks)
        _arrive(store, rank)
        _wait_for_all(store, num_ranks, place.wait)
        return store
    while True:
        store = place.connect(rank)
        try:
            if _arrive(store, rank):
                while not store.check([_ALL]):
                    if place.wait.over:
                        raise RankLostError(f"rank 0 is there, at {place.name}, but not all are{_advice(place.wait)}")
                    time.sleep(_POLL_S)
                return store
            place.wait.say(f"rank {rank}: an earlier start has not ended yet at {place.name}")
        except DistNetworkError:  # its own message says why
            place.wait.say(f"rank {rank}: rank 0 at {place.name} is gone again")
        time.sleep(_POLL_S)


def _arrive(store: TCPStore, rank: int) -> bool:
    """Write this rank down; False if one of its number is: of an earlier start, as its rank 0 has not ended yet."""
    store.set(_WHERE.format(rank), socket.gethostname())
    return store.add(_ARRIVED.format(rank), 1) == 1


def _wait_for_all(store: TCPStore, num_ranks: int, wait: Wait) -> None:
    """Wait, on rank 0, until all have come, and tell the others. Raises RankLostError: some never came."""
    missing = list(range(1, num_ranks))
    while missing := [rank for rank in missing if not store.check([_ARRIVED.format(rank)])]:
        here = [rank for rank in range(num_ranks) if rank not in set(missing)]
        message = f"{num_ranks - len(missing)} of {num_ranks} ranks have come: {_named(store, here)}"
        message += f"; missing: {_numbers(missing)}"
        if wait.over:
            raise RankLostError(f"{message}{_advice(wait)}")
        wait.say(message)
        time.sleep(_POLL_S)
    store.set(_ALL, "1")


def _named(store: TCPStore, ranks: list[int]) -> str:
    named = [f"rank {rank} on {store.get(_WHERE.format(rank)).decode()}" for rank in ranks[:_MAX_NAMED]]
    return ", ".join(named) + (" ..." if len(ranks) > _MAX_NAMED else "")


def _numbers(ranks: list[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in ranks[:_MAX_NAMED]) + (" ..." if len(ranks) > _MAX_NAMED else "")


def _advice(wait: Wait) -> str:
    return (
        f" within {wait.limit_s:g} s (train.resources.rendezvous_timeout_s): look at the logs of those that are "
        "missing, and whether their machines reach rank 0's port; then start all again"
    )
