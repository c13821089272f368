"""Crash journals: what a process has open at this moment, on disk, so that its crash tells which file caused it.

A file can kill the process that decodes it. The worker keeps a `CrashJournal`. When a signal kills the worker, the
stage that started it reads what was `open_at_crash` and starts another one, which opens those in `Quarantine` first and
one at a time: the next crash has one cause, which is rejected as killed_worker; the others are cleared.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MAX_CRASHES = 2  # a file that was open in so many processes when they crashed is not opened again
_SLOT_BYTES = 256


class CrashJournal:
    """The names that are open now, one fixed slot of a file each; thread-safe. A new one forgets what the file held.

    Nothing is synced: what a process wrote survives its crash, and a crash of the machine is caused by no file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._num_slots = 0

    @contextmanager
    def open(self, name: str) -> Iterator[None]:
        """Hold `name` (a digest or key, at most 255 bytes, no NUL) open while the context lasts."""
        record = name.encode()
        if not 0 < len(record) < _SLOT_BYTES:
            raise ValueError(f"a crash journal holds names of 1 to {_SLOT_BYTES - 1} bytes, got {name!r}")
        slot = self._take()
        os.pwrite(self._file, record.ljust(_SLOT_BYTES, b"\0"), slot * _SLOT_BYTES)
        try:
            yield
        finally:
            os.pwrite(self._file, bytes(_SLOT_BYTES), slot * _SLOT_BYTES)
            with self._lock:
                self._free.append(slot)

    def close(self) -> None:
        os.close(self._file)

    def _take(self) -> int:
        with self._lock:
            if self._free:
                return self._free.pop()
            self._num_slots += 1
            return self._num_slots - 1


def open_at_crash(path: Path) -> list[str]:
    """Return the names that were open when the process of this crash journal crashed, sorted; none without a file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    records = (data[start : start + _SLOT_BYTES].rstrip(b"\0") for start in range(0, len(data), _SLOT_BYTES))
    return sorted({record.decode() for record in records if record})


@dataclass(frozen=True)
class Quarantine:
    """Names that were open in a crash, and in how many: `num_crashes` by name. A name that never was is not in it."""

    num_crashes: Mapping[str, int] = field(default_factory=dict)

    def after(self, names: Iterable[str]) -> "Quarantine":
        """Return what is known after another crash, in which these names were open."""
        return Quarantine({**self.num_crashes, **{name: self.num_crashes.get(name, 0) + 1 for name in names}})

    @property
    def to_isolate(self) -> list[str]:
        """Names to open first, one at a time, nothing else being open; sorted."""
        return sorted(name for name, num_crashes in self.num_crashes.items() if num_crashes < MAX_CRASHES)

    @property
    def to_reject(self) -> list[str]:
        """Names to reject as killed_worker, unopened; sorted."""
        return sorted(name for name, num_crashes in self.num_crashes.items() if num_crashes >= MAX_CRASHES)
