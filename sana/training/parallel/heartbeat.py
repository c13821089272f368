"""Heartbeats between ranks, over all machines: a rank whose others are gone ends in seconds, wherever it waits.

A process that dies closes its connections, and the others see it in the next exchange. A machine that is cut off, or
loses power, closes nothing: an exchange would wait for hours. So each rank beats by a thread of its own, which a slow
checkpoint, evaluation or kernel does not stop: rank 0 listens to all, and the others to rank 0.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch.distributed import distributed_c10d

from sana.runtime.launcher import EXIT_TRY_AGAIN

BEAT_S = 1.0
SILENT_S = 20.0  # a rank that was not heard for so long is gone

_log = logging.getLogger(__name__)


def _leave(rank: int) -> None:
    """End this process at once: its main thread may wait for the lost rank in a call that nothing interrupts."""
    _log.critical(
        "rank %d was not heard of for %g s: its process or machine is gone, or the network between; this rank ends. "
        "What was saved is kept: start the ranks again, and they resume from the newest checkpoint",
        rank,
        SILENT_S,
    )
    logging.shutdown()
    os._exit(EXIT_TRY_AGAIN)


class Heartbeat:
    """Beats and listens until `stop`; nothing with one rank. `on_lost` is called, from a thread, with a silent rank."""

    def __init__(
        self, rank: int, num_ranks: int, *, silent_s: float = SILENT_S, on_lost: Callable[[int], None] = _leave
    ) -> None:
        self._rank, self._silent_s, self._on_lost = rank, silent_s, on_lost
        self._stopped = threading.Event()
        if num_ranks == 1:
            return
        # a connection of its own: one that blocks must not hold up the exchange of addresses of a new group
        self._store: torch.distributed.Store = distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=silent_s))
        heard = time.monotonic()
        others = range(1, num_ranks) if rank == 0 else [0]
        self._counts = dict.fromkeys(others, -1)
        self._heard = dict.fromkeys(others, heard)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_S):
            try:
                self._store.add(f"sana_beat/{self._rank}", 1)
                for other, before in self._counts.items():
                    count = self._store.add(f"sana_beat/{other}", 0)
                    if count != before:
                        self._counts[other], self._heard[other] = count, time.monotonic()
            except RuntimeError:  # the store is where rank 0 is; torch's connection errors are RuntimeErrors
                return  # so nobody is heard any more

    def _watch(self) -> None:
        """Watch the clock apart from `_beat`, which may wait for a store that does not answer."""
        woke = time.monotonic()
        while not self._stopped.wait(BEAT_S):
            slept, woke = time.monotonic() - woke, time.monotonic()
            if slept > self._silent_s / 2:  # this very process was stopped, and heard nobody meanwhile
                self._heard = dict.fromkeys(self._heard, woke)
            silent = [other for other, heard in self._heard.items() if woke - heard > self._silent_s]
            if silent:
                self._stopped.set()
                self._on_lost(silent[0])

    def stop(self) -> None:
        """Neither beat nor listen any more: the ranks end in order."""
        self._stopped.set()
