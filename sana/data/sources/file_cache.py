"""Files fetched from a remote place, videos and shards, kept on the local disk within a budget.

Threads and processes of one machine share the folder. Everything rests on flock(2), which the kernel releases when a
process dies: who uses a file holds a shared lock on it, and who evicts one must first get it exclusively.
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

from sana.progress import in_units

_ROOM = ".room-"  # a sparse file as long as the file being fetched: it holds the place in the budget
_ASK_AGAIN_S = 60.0  # for room, after there was none
_FETCH = ".fetch-"  # the folder the file is fetched into, with the room's name
_SLACK = 16  # a full cache is emptied by a 16th more than needed, so that not every fetch looks at every file


@dataclass(frozen=True)
class Traffic:
    """What one process's cache fetched, and the seconds since its first fetch began.

    Of a file on its way the bytes that are on the disk count, and what an earlier process left of it.
    """

    fetched_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """Such as `1.2 GiB fetched, 40.0 MiB/s`; empty if nothing was."""
        if not self.fetched_bytes:
            return ""
        return f"{in_units(self.fetched_bytes)} fetched, {in_units(self.fetched_bytes / max(self.seconds, 1e-3))}/s"


class FileCache:
    """At most `max_bytes` of files, plus what is open at the moment: a file in use is never evicted.

    The least recently opened go first; never those that were opened in the last `keep_s` seconds. The folder is made
    by the first fetch, and may be deleted between runs.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep_s: float = 0.0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._counting = threading.Lock()
        self._fetched_bytes = 0
        self._first_fetch_s: float | None = None
        self._under_way: dict[Path, int] = {}  # folder a file is fetched into -> bytes it will have
        self._keep_s = keep_s
        self._full_until = 0.0  # by the monotonic clock

    @property
    def traffic(self) -> Traffic:
        """What this object did since it was made; a shared folder's other users have their own."""
        with self._counting:
            seconds = 0.0 if self._first_fetch_s is None else time.monotonic() - self._first_fetch_s
            coming = sum(min(_on_disk(folder), num_bytes) for folder, num_bytes in self._under_way.items())
            return Traffic(self._fetched_bytes + coming, seconds)

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
        """Give the path of the file with this content digest; it stays there until the context ends.

        When the file is not here, `size` is asked for its bytes and `fetch` to write the path it is given, by one
        thread of one process at a time for a file. If one raises, nothing is kept; but when `fetch` resumes, what it
        left in the path's folder is there, and counts, until the next try or until its room is needed.
        """
        path = self._path(digest, suffix)
        pin = self._pinned(path, size, fetch, resumes=resumes)
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
        self,
        path: Path,
        size: Callable[[], int],
        fetch: Callable[[Path], None],
        *,
        over_budget: bool = True,
        resumes: bool = False,
    ) -> int | None:
        """Return a pin on a file, which may have to be fetched; None when there is no room for it."""
        pin = _pin(path)
        if pin is None and (over_budget or time.monotonic() >= self._full_until):
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f".lock-{path.name[:2]}"):  # 256 lock files, not one per file
                pin = _pin(path)  # fetched by another while we waited?
                if pin is None:
                    pin = self._fetch(path, size(), fetch, over_budget, resumes)
        return pin

    def _fetch(
        self, path: Path, num_bytes: int, fetch: Callable[[Path], None], over_budget: bool, resumes: bool
    ) -> int | None:
        """Fetch into a private folder, pin, then move: nobody sees a partial file or evicts one before its use."""
        room, folder = self._folder / f"{_ROOM}{path.name}", self._folder / f"{_FETCH}{path.name}"
        with self._counting:
            self._first_fetch_s = self._first_fetch_s or time.monotonic()
        claim = self._claim(room, num_bytes, over_budget)
        if claim is None:
            self._full_until = time.monotonic() + _ASK_AGAIN_S
            return None
        try:
            if not resumes:
                shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
            folder.mkdir(exist_ok=True)
            with self._counting:
                self._under_way[folder] = num_bytes
            fetched = folder / path.name
            fetch(fetched)
            pin = _pin(fetched)
            if pin is None:
                raise FileNotFoundError(f"{fetched} was not written by its fetch")
            # at once: nobody counts both the file and the place it was given
            with _locked(self._folder / ".lock"), self._counting:
                os.replace(fetched, path)
                room.unlink()
                del self._under_way[folder]
                self._fetched_bytes += num_bytes
            resumes = False
            return pin
        finally:
            with self._counting:
                self._under_way.pop(folder, None)
            left = sum(file.stat().st_size for file in folder.rglob("*")) if resumes and folder.is_dir() else 0
            if left:
                os.truncate(claim, left)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                room.unlink(missing_ok=True)
            os.close(claim)

    def _claim(self, room: Path, num_bytes: int, over_budget: bool) -> int | None:
        """Hold `num_bytes` of the budget, evicting what stands in the way; returns the descriptor that holds them.

        The lock file keeps the sum of all sizes, or more: a file that went is noticed when all are looked at next.
        None: there is no such room, even so, and it must not go `over_budget`.
        """
        with _locked(self._folder / ".lock") as ledger:
            noted = os.pread(ledger, 32, 0)
            held = int(noted) + num_bytes if noted else self._max_bytes + 1
            os.pwrite(ledger, b"%032d" % held, 0)  # before the file: a process killed here has claimed too much
            claim = os.open(room, os.O_RDWR | os.O_CREAT)
            fcntl.flock(claim, fcntl.LOCK_SH)
            os.truncate(claim, num_bytes)
            if held > self._max_bytes:
                held = self._evict()
                os.pwrite(ledger, b"%032d" % held, 0)
            if held > self._max_bytes and not over_budget:
                room.unlink()
                os.close(claim)
                os.pwrite(ledger, b"%032d" % (held - num_bytes), 0)
                return None
        return claim

    def _evict(self) -> int:
        """Delete what nobody uses, least recently opened first, if there is too much; returns the bytes left."""
        entries = []
        with os.scandir(self._folder) as found:
            for entry in found:
                if entry.name.startswith(_ROOM) or not entry.name.startswith("."):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:  # a fetch ended, and gave its room back
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
                if path.name.startswith(_ROOM):  # its process died, or gave up for now
                    shutil.rmtree(path.with_name(path.name.replace(_ROOM, _FETCH, 1)), ignore_errors=True)
        return total


def _on_disk(folder: Path) -> int:
    """Bytes of the files in a folder, without the holes of one that is written in several places at once."""
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
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
