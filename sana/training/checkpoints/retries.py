"""Waiting for storage that is away, behind training."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sana.store_errors import StoreError, StoreFullError

RETRY_FOR_S = 900.0  # beyond what the client of S3 tries by itself, about half a minute
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


def with_retries(work: Callable[[], T], *, check: Callable[[], None]) -> T:
    """Return `work()`; while storage does not answer it is tried again, for RETRY_FOR_S. `check` is asked in between.

    Raises:
        StoreError: storage stayed away, or is full, which waiting does not mend.
    """
    wait_s, until = FIRST_WAIT_S, time.monotonic() + RETRY_FOR_S
    while True:
        try:
            return work()
        except StoreFullError:
            raise
        except StoreError as error:
            if time.monotonic() + wait_s > until:
                raise
            _log.warning("a checkpoint cannot be stored now; it is tried again in %.0f s: %s", wait_s, error)
        time.sleep(wait_s)
        check()
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
