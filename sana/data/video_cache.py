"""Files fetched from a remote place, videos and shards, kept on the local disk within a budget.

Threads and processes of one machine share the folder. Everything rests on flock(2), which the kernel releases when a
process dies: who uses a file holds a shared lock on it, and who evicts one must first get it exclusively.
"""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = ".room-"  # a sparse file as long as the video being fetched: it holds the place in the budget
_ASK_AGAIN_S = 60.0  # for room, after there was none
_FETCH = ".fetch-"  # the folder the video is fetched into, with the room's id


class VideoCache:
    """At most `max_bytes` of files, plus what is open at the moment: a file in use is never evicted.

    The least recently opened go first; never those that were opened in the last `keep_s` seconds. The folder is made
    by the first fetch, and may be deleted between runs.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep_s: float = 0.0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._full_until = 0.0  # by the monotonic clock

    @contextmanager
    def open(
        self, digest: str, suffix: str, *, size: Callable[[], int], fetch: Callable[[Path], None]
    ) -> Iterator[Path]:
        """Give the path of the file with this content digest; it stays there until the context ends.

        When the file is not here, `size` is asked for its bytes and `fetch` to write the path it is given, by one
        thread of one process at a time for a file. If one raises, nothing is kept.
        """
        path = self._path(digest, suffix)
        pin = self._pinned(path, size, fetch, over_budget=True)
        assert pin is not None  # over the budget, if need be
        try:
            yield path
        finally:
            os.close(pin)

    @contextmanager
    def open_if_room(
        self, digest: str, suffix: str, *, size: Callable[[], int], fetch: Callable[[Path], None]
    ) -> Iterator[Path | None]:
        """The same, but gives None rather than fetch what the budget has no room for.

        After that it is not asked for room again for a minute: each time is a request and a look through the folder.
        """
        path = self._path(digest, suffix)
        pin = self._pinned(path, size, fetch, over_budget=False)
        try:
            yield None if pin is None else path
        finally:
            if pin is not None:
                os.close(pin)

    def discard(self, digest: str, suffix: str) -> None:
        """Drop a file that was found damaged; who reads it at the moment keeps it."""
        self._path(digest, suffix).unlink(missing_ok=True)

    def _path(self, digest: str, suffix: str) -> Path:
        name = hashlib.blake2b(digest.encode(), digest_size=16).hexdigest()  # an ETag may hold any character
        return self._folder / f"{name}{suffix.lower()}"

    def _pinned(
        self, path: Path, size: Callable[[], int], fetch: Callable[[Path], None], *, over_budget: bool
    ) -> int | None:
        """Return a pin on a file, fetched if need be; None when there is no room for it."""
        pin = _pin(path)
        if pin is None and (over_budget or time.monotonic() >= self._full_until):
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f".lock-{path.name[:2]}"):  # 256 lock files, not one per video
                pin = _pin(path)  # fetched by another while we waited?
                if pin is None:
                    pin = self._fetch(path, size(), fetch, over_budget)
        return pin

    def _fetch(self, path: Path, num_bytes: int, fetch: Callable[[Path], None], over_budget: bool) -> int | None:
        """Fetch into a private folder, pin, then move: nobody sees a partial file or evicts one before its use."""
        token = uuid.uuid4().hex
        room, folder = self._folder / f"{_ROOM}{token}", self._folder / f"{_FETCH}{token}"
        with _locked(self._folder / ".lock"):
            left = self._evict(self._max_bytes - num_bytes)
            if left > self._max_bytes - num_bytes and not over_budget:
                self._full_until = time.monotonic() + _ASK_AGAIN_S
                return None
            claim = os.open(room, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            fcntl.flock(claim, fcntl.LOCK_SH)
            os.truncate(claim, num_bytes)
        try:
            folder.mkdir()
            fetched = folder / path.name
            fetch(fetched)
            pin = _pin(fetched)
            if pin is None:
                raise FileNotFoundError(f"{fetched} was not written by its fetch")
            with _locked(self._folder / ".lock"):  # at once: nobody counts both the file and the place it was given
                os.replace(fetched, path)
                room.unlink()
            return pin
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            room.unlink(missing_ok=True)
            os.close(claim)

    def _evict(self, max_bytes: int) -> int:
        """Delete what nobody uses, least recently opened first, until at most `max_bytes` are left; return the rest."""
        entries = []
        for entry in self._folder.iterdir():
            if entry.name.startswith(_ROOM):
                if _delete_unused(entry):  # its process died
                    shutil.rmtree(entry.with_name(entry.name.replace(_ROOM, _FETCH)), ignore_errors=True)
                    continue
            elif entry.name.startswith("."):
                continue
            try:
                entries.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry))
            except FileNotFoundError:  # a fetch ended, and gave its room back
                continue
        total = sum(size for _, size, _ in entries)
        newest_ns = time.time_ns() - int(self._keep_s * 1e9)
        for opened_ns, size, entry in sorted(entries):
            if total <= max_bytes or (self._keep_s and opened_ns > newest_ns):
                break
            if not entry.name.startswith(_ROOM) and _delete_unused(entry):
                total -= size
        return total


def _pin(path: Path) -> int | None:
    """Return a descriptor that keeps `path` from eviction until it is closed; None if there is no such file."""
    while True:
        try:
            pin = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(pin, fcntl.LOCK_SH)
        if os.fstat(pin).st_nlink:  # else it was evicted between open and lock: look again
            os.utime(pin)  # the time of last use; access times are off on many disks
            return pin
        os.close(pin)


def _delete_unused(path: Path) -> bool:
    """Delete `path` unless somebody holds a lock on it; False if it is in use or gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
