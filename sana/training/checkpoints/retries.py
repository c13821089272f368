"""Waiting for storage that is away, behind training and before it."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sana.data.shards.shard_cache import ShardFiles
from sana.store_errors import StoreAwayError, StoreError, StoreFullError

RETRY_FOR_S = 900.0  # beyond what the client of S3 tries by itself, about half a minute
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


def with_retries(
    work: Callable[[], T], *, what: str, check: Callable[[], None], only: type[StoreError] = StoreError
) -> T:
    """Return `work()`; after an error of `only` it is tried again, for RETRY_FOR_S, and `what` is said to wait.

    `check` is asked in between.

    Raises:
        StoreError: storage stayed away, or is full, which waiting does not mend.
    """
    wait_s, began, away = FIRST_WAIT_S, time.monotonic(), False
    while True:
        try:
            done = work()
        except StoreFullError:
            raise
        except only as error:
            waited_s = time.monotonic() - began
            if waited_s + wait_s > RETRY_FOR_S:
                raise type(error)(
                    f"{error}. It was tried again for {waited_s:.0f} s; what was saved before is whole: run again, and "
                    "training resumes from it"
                ) from error
            _log.warning("%s now; it is tried again in %.0f s: %s", what, wait_s, error)
        else:
            if away:
                _log.warning("storage is back after %.0f s", time.monotonic() - began)
            return done
        away = True
        time.sleep(wait_s)
        check()
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


class PatientShardFiles(ShardFiles):
    """Waits for storage that is away: a minute without S3 ends no training. One thread asks for all that read."""

    _gone: StoreAwayError | None = None  # after RETRY_FOR_S: the others need not wait as long again

    def read_into(self, shard: str, start: int, buffer: memoryview) -> None:
        try:
            super().read_into(shard, start, buffer)
        except StoreAwayError:
            self._wait(partial(super().read_into, shard, start, buffer))

    def read_again_into(self, shard: str, start: int, buffer: memoryview) -> None:
        try:
            super().read_again_into(shard, start, buffer)
        except StoreAwayError:
            self._wait(partial(super().read_again_into, shard, start, buffer))

    def _wait(self, read: Callable[[], None]) -> None:
        with _asking:
            if self._gone is not None:
                raise self._gone
            try:
                with_retries(read, what="samples cannot be read", check=_nothing, only=StoreAwayError)
            except StoreAwayError as error:
                self._gone = error
                raise


_asking = threading.Lock()


def _nothing() -> None:
    """Reading holds no lease."""
