"""A cache of fetched remote files, videos and shards, on the local disk within a budget.

Threads and processes of one machine share the folder. It relies on flock(2), which the kernel releases when a process
dies: a user of a file holds a shared lock on it, and eviction needs an exclusive one.
"""

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sana.errors import FullDiskExplained
from sana.wording import in_units

_RESERVATION = ".room-"  # a sparse file as long as the file being fetched: it reserves the bytes in the budget
_RETRY_S = 60.0  # until a cache that was full is tried again
_FETCH = ".fetch-"  # the folder the file is fetched into, named as the reservation
_SLACK = 16  # a full cache is emptied by a 16th more than needed, so that not every fetch scans the folder


@dataclass(frozen=True)
class FetchStats:
    """Bytes that one process's cache fetched, and the seconds since its first fetch began.

    Of a file being fetched the bytes on the disk count, also those that an earlier process fetched.
    """

    fetched_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """Such as `1.2 GiB fetched, 40.0 MiB/s`; empty if nothing was."""
        if not self.fetched_bytes:
            return ""
        return f"{in_units(self.fetched_bytes)} fetched, {in_units(self.fetched_bytes / max(self.seconds, 1e-3))}/s"


class FileCache:
    """Holds at most `max_bytes` of files, plus those open at the moment: a file in use is never evicted.

    The least recently opened are evicted first; those opened in the last `keep_s` seconds never. The first fetch makes
    the folder, which may be deleted between runs.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep_s: float = 0.0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._stats_lock = threading.Lock()
        self._fetched_bytes = 0
        self._first_fetch_s: float | None = None
        self._in_progress: dict[Path, int] = {}  # folder a file is fetched into -> bytes of the whole file
        self._keep_s = keep_s
        self._full_until = 0.0  # by the monotonic clock

    @property
    def max_bytes(self) -> int:
        """The budget."""
        return self._max_bytes

    def sharing(self) -> "FileCache":
        """Return a cache of the same files and budget with statistics of its own."""
        return FileCache(self._folder, max_bytes=self._max_bytes, keep_s=self._keep_s)

    @property
    def fetch_stats(self) -> FetchStats:
        """The fetches of this object since it was made; other users of a shared folder count their own."""
        with self._stats_lock:
            seconds = 0.0 if self._first_fetch_s is None else time.monotonic() - self._first_fetch_s
            partial = sum(min(_on_disk(folder), num_bytes) for folder, num_bytes in self._in_progress.items())
            return FetchStats(self._fetched_bytes + partial, seconds)

    @contextmanager
    def open(
        self,
        digest: str,
        suffix: str,
        *,
        size: Callable[[], int],
        fetch: Callable[[Path], None],
        resumes: bool = False,
    ) -> Iterator[Path]:
        """Give the path of the file with this content digest; it stays valid until the context ends.

        On a miss `size()` gives its bytes and `fetch(path)` writes it, in one thread of one process at a time per file.
        If either raises, nothing is kept, unless `fetch` `resumes`: then what it left in the path's folder is kept, and
        counts, until the next try or until the space is needed.
        """
        path = self._path(digest, suffix)
        pin = self._pinned(path, size, fetch, resumes=resumes)
        assert pin is not None  # it may exceed the budget
        try:
            yield path
        finally:
            os.close(pin)

    @contextmanager
    def open_if_room(
        self, digest: str, suffix: str, *, size: Callable[[], int], fetch: Callable[[Path], None]
    ) -> Iterator[Path | None]:
        """The same, but gives None instead of fetching a file that the budget has no room for.

        After that, misses give None for a minute: each try costs a request and a scan of the folder.
        """
        path = self._path(digest, suffix)
        pin = self._pinned(path, size, fetch, over_budget=False)
        try:
            yield None if pin is None else path
        finally:
            if pin is not None:
                os.close(pin)

    @contextmanager
    def open_cached(self, digest: str, suffix: str) -> Iterator[Path | None]:
        """The same, but gives None where the file is not there already: nothing is fetched."""
        path = self._path(digest, suffix)
        pin = _pin(path)
        try:
            yield None if pin is None else path
        finally:
            if pin is not None:
                os.close(pin)

    def discard(self, digest: str, suffix: str) -> None:
        """Drop a file that was found damaged; those who read it at the moment keep it."""
        self._path(digest, suffix).unlink(missing_ok=True)

    def _path(self, digest: str, suffix: str) -> Path:
        name = hashlib.blake2b(digest.encode(), digest_size=16).hexdigest()  # an ETag may hold any character
        return self._folder / f"{name}{suffix.lower()}"

    def _pinned(
        self,
        path: Path,
        size: Callable[[], int],
        fetch: Callable[[Path], None],
        *,
        over_budget: bool = True,
        resumes: bool = False,
    ) -> int | None:
        """Return a pin on a file, fetched on a miss; None when there is no room for it."""
        pin = _pin(path)
        if pin is None and (over_budget or time.monotonic() >= self._full_until):
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f".lock-{path.name[:2]}"):  # 256 lock files, not one per file
                pin = _pin(path)  # fetched by another process meanwhile?
                if pin is None:
                    pin = self._fetch(path, size(), fetch, over_budget, resumes)
        return pin

    def _fetch(
        self, path: Path, num_bytes: int, fetch: Callable[[Path], None], over_budget: bool, resumes: bool
    ) -> int | None:
        """Fetch into a private folder, pin, then move: a partial file is never visible, nor evicted before its use."""
        reservation, folder = self._folder / f"{_RESERVATION}{path.name}", self._folder / f"{_FETCH}{path.name}"
        with self._stats_lock:
            self._first_fetch_s = self._first_fetch_s or time.monotonic()
        reserved = self._reserve(reservation, num_bytes, over_budget)
        if reserved is None:
            self._full_until = time.monotonic() + _RETRY_S
            return None
        try:
            if not resumes:
                shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
            folder.mkdir(exist_ok=True)
            with self._stats_lock:
                self._in_progress[folder] = num_bytes
            fetched = folder / path.name
            with self._disk_explained(num_bytes):
                fetch(fetched)
            pin = _pin(fetched)
            if pin is None:
                raise FileNotFoundError(f"{fetched} was not written by its fetch")
            # under the lock: no process counts both the file and its reservation
            with _locked(self._folder / ".lock"), self._stats_lock:
                os.replace(fetched, path)
                reservation.unlink()
                del self._in_progress[folder]
                self._fetched_bytes += num_bytes
            resumes = False
            return pin
        finally:
            with self._stats_lock:
                self._in_progress.pop(folder, None)
            left = sum(file.stat().st_size for file in folder.rglob("*")) if resumes and folder.is_dir() else 0
            if left:
                os.truncate(reserved, left)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                reservation.unlink(missing_ok=True)
            os.close(reserved)

    def _disk_explained(self, num_bytes: int) -> FullDiskExplained:
        """Say what helps when the disk is full before the budget is used up."""
        return FullDiskExplained(
            f"the disk of the cache {self._folder} is full: a file of {in_units(num_bytes)} finds no room, though the "
            f"cache may hold {in_units(self._max_bytes)}. Lower its budget (download.resources.cache_gib, of shards "
            "train.resources.shard_cache_gib), make room, or set work_dir to a folder on another disk"
        )

    def _reserve(self, reservation: Path, num_bytes: int, over_budget: bool) -> int | None:
        """Reserve `num_bytes` of the budget, evicting files for them; returns the descriptor of the reservation.

        None: there is not enough space even so, and the budget must not be exceeded (`over_budget`). The lock file
        holds the sum of all sizes, or more: a file that was deleted is noticed by the next scan.
        """
        with _locked(self._folder / ".lock") as ledger:
            noted = os.pread(ledger, 32, 0)
            total = int(noted) + num_bytes if noted else self._max_bytes + 1
            os.pwrite(ledger, b"%032d" % total, 0)  # before the file: a process killed here has reserved too much
            reserved = os.open(reservation, os.O_RDWR | os.O_CREAT)
            fcntl.flock(reserved, fcntl.LOCK_SH)
            os.truncate(reserved, num_bytes)
            if total > self._max_bytes:
                total = self._evict()
                os.pwrite(ledger, b"%032d" % total, 0)
            if total > self._max_bytes and not over_budget:
                reservation.unlink()
                os.close(reserved)
                os.pwrite(ledger, b"%032d" % (total - num_bytes), 0)
                return None
        return reserved

    def _evict(self) -> int:
        """Delete unused files, least recently opened first, while the budget is exceeded; returns the bytes left."""
        entries = []
        with os.scandir(self._folder) as found:
            for entry in found:
                if entry.name.startswith(_RESERVATION) or not entry.name.startswith("."):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:  # a fetch ended, and released its reservation
                        continue
                    entries.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
        total = sum(size for _, size, _ in entries)
        enough = self._max_bytes if total <= self._max_bytes else self._max_bytes - self._max_bytes // _SLACK
        newest_ns = time.time_ns() - int(self._keep_s * 1e9)
        for opened_ns, size, path in sorted(entries):
            if total <= enough or (self._keep_s and opened_ns > newest_ns):
                break
            if _delete_unused(path):
                total -= size
                if path.name.startswith(_RESERVATION):  # its process died, or its fetch failed
                    shutil.rmtree(path.with_name(path.name.replace(_RESERVATION, _FETCH, 1)), ignore_errors=True)
        return total


def _on_disk(folder: Path) -> int:
    """Return the bytes of the files in a folder, without the holes of a file that is written at several offsets."""
    num_bytes = 0
    with suppress(FileNotFoundError):  # renamed meanwhile
        for file in folder.iterdir():
            num_bytes += min((stat := file.stat()).st_size, 512 * stat.st_blocks)
    return num_bytes


def _pin(path: Path) -> int | None:
    """Return a descriptor that keeps `path` from eviction until it is closed; None if there is no such file."""
    while True:
        try:
            pin = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(pin, fcntl.LOCK_SH)
        if os.fstat(pin).st_nlink:  # else it was evicted between open and lock: try again
            os.utime(pin)  # the time of last use; access times are off on many disks
            return pin
        os.close(pin)


def _delete_unused(path: Path) -> bool:
    """Delete `path` unless a process holds a lock on it; False if it is in use or does not exist."""
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
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
