"""The lease on a trajectory: one trainer at a time, over all machines that share the root.

    train/<trajectory>/lease/00000007.json      a `Claim`; the highest number holds

Nothing is overwritten: a heartbeat or a take-over creates the next number, and only one process can. A holder that
finds another's number above its own has lost the lease and must stop. Clocks need to agree to within a minute.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sana.errors import LeaseHeldError, SanaError
from sana.record import Record
from sana.runtime.process_id import ProcessId, this_host
from sana.store import Store
from sana.store_errors import StoreError

HEARTBEAT_S = 20.0
_POLL_S = 2.0
EXPIRES_S = 120.0  # several heartbeats, and more than clocks differ

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim(Record):
    """Who holds a lease, and the time of its last heartbeat."""

    owner: str
    host: str  # where its pid counts, as `this_host` names it
    pid: int
    heartbeat_at: float  # Unix time, seconds


class Lease:
    """A lease that this process holds, until `check` raises."""

    def __init__(self, store: Store, folder: str, number: int) -> None:
        self._store = store
        self._folder = folder
        self._number = number
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lost = ""  # why
        self._stop = threading.Event()

    def _claim(self) -> bool:
        """Create the next number; False when another process did."""
        claim = Claim(self._owner, this_host(), os.getpid(), round(time.time(), 3))
        key = _key(self._folder, self._number + 1)
        if not self._store.put_if_absent(key, claim.to_json(indent=None)):
            # ours, where a put got through though storage seemed away
            try:
                there = Claim.from_json(self._store.read(key), where=self._store.uri(key))
            except FileNotFoundError:  # another's, which has a higher number by now
                return False
            if there.owner != self._owner:
                return False
        if self._store.list(self._folder)[-1][0] > key:  # a holder deletes its earlier numbers: this one was free again
            self._store.delete(key)
            return False
        self._number += 1
        if self._number > 1:
            self._store.delete(_key(self._folder, self._number - 1))
        return True

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                kept = self._claim()
            except StoreError as error:  # storage is away, as it is for all others
                _log.warning("the lease could not be renewed, which is tried again: %s", error)
                continue
            except SanaError as error:
                self._lost = f"the lease of this trainer cannot be read back: {error}"
                return
            if not kept:
                self._lost = (
                    f"another trainer took over {self._store.uri(self._folder)}, as this one was silent for "
                    f"{EXPIRES_S:.0f} s"
                )
                return

    def check(self) -> None:
        """Raise when the lease was lost.

        Raises:
            SanaError: another trainer took over, so nothing may be written any more.
        """
        if self._lost:
            raise SanaError(f"{self._lost}; training stops here and has lost nothing that was committed")


@contextmanager
def hold_lease(store: Store, trajectory: str, *, wait: bool = False) -> Iterator[Lease]:
    """Hold the lease on a trajectory while the body runs.

    A claim whose process is gone, if it was on this machine, or without a heartbeat for EXPIRES_S is taken over.
    `wait`: wait for that, as long as the holder is silent; else a claim that is no older is an error.

    Raises:
        LeaseHeldError: another trainer holds it; names who and since when.
        SanaError: a claim cannot be read.
    """
    folder = f"train/{trajectory}/lease"
    number, claim = _newest_claim(store, folder)
    while wait and claim and _is_held(claim):
        _log.info("waiting for the lease of %s, which is silent since %.0f s", claim.owner, _age_s(claim))
        time.sleep(_POLL_S)
        before, (number, claim) = claim, _newest_claim(store, folder)
        wait = claim == before
    if claim and _is_held(claim):
        age_s = _age_s(claim)
        raise LeaseHeldError(
            f"train: {claim.owner} is training {trajectory} already (last heard of {max(age_s, 0):.0f} s ago); "
            f"wait for it, or, if it is gone, for {EXPIRES_S:.0f} s"
        )
    lease = Lease(store, folder, number)
    if not lease._claim():
        raise LeaseHeldError(f"train: another trainer has just begun {trajectory}; wait for it")
    thread = threading.Thread(target=lease._heartbeat, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease._stop.set()
        thread.join()
        if not lease._lost:
            try:
                store.delete(_key(folder, lease._number))
            except StoreError as error:  # beside what ended training, which matters more
                _log.warning("the lease is left behind, for %.0f s: %s", EXPIRES_S, error)


def _age_s(claim: Claim) -> float:
    return time.time() - claim.heartbeat_at


def _is_held(claim: Claim) -> bool:
    return _age_s(claim) < EXPIRES_S and not ProcessId(claim.host, claim.pid).is_gone()


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"


def _newest_claim(store: Store, folder: str) -> tuple[int, Claim | None]:
    """Return the highest number and its claim; a claim may be deleted between listing and reading."""
    for key, _ in reversed(store.list(folder)):
        try:
            data = store.read(key)
        except FileNotFoundError:
            continue
        claim = Claim.from_json(data, where=store.uri(key), repair_hint="remove it if nobody trains on it")
        return int(key.rpartition("/")[2].removesuffix(".json")), claim
    return 0, None
