"""A store that counts the reads it serves. Light to import, for tests that start processes."""

import fcntl
import os
from pathlib import Path
from typing import Any

from sana.store import open_store


class Counted:
    """The store at a root; methods that are not counted are its own."""

    def __init__(self, root: str) -> None:
        self.store = open_store(root)
        self.ranges = self.fetched = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self.ranges += 1
        self.store.read_into(key, start, buffer)

    def fetch(self, key: str, path: Path) -> None:
        self.fetched += 1
        self.store.fetch(key, path)


def used(folder: Path) -> int:
    """Return the bytes in a cache without its ledger, unfinished fetches included; the cache is locked meanwhile."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name != ".lock")
    finally:
        os.close(lock)
