"""A cache of content digests of local files, by path, size and modification time: a file is hashed once."""

import errno
import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Literal

import xxhash

from sana.errors import SanaError

MIN_AGE_NS = 2 * 10**9  # within the clock's resolution (2 s on FAT) a file may change and keep its modification time
LOCK_TIMEOUT_S = 30.0  # another process holds the database for microseconds
READ_BYTES = 2**20

_TABLE = "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, num_bytes INTEGER, mtime_ns INTEGER, digest TEXT)"
_FIND = "SELECT digest FROM digests WHERE path = ? AND num_bytes = ? AND mtime_ns = ?"
_STORE = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)"


class DigestCache:
    """A sqlite file at `path`, shared by threads and processes; None: nothing is cached.

    `read_only` looks up and never writes, not even an empty database: a missing or unreadable one counts as empty.
    `rehash` never looks up: each file is read, and the stored digests are replaced. The file may be deleted any time.
    A database holds digests of one algorithm.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        rehash: bool = False,
        algorithm: Literal["xxh3", "blake2b"] = "xxh3",
    ) -> None:
        self._path = path
        self._algorithm = algorithm
        self._read_only = read_only
        self._rehash = rehash
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def digest(self, path: Path) -> str:
        """Return "xxh3:", or the algorithm's name, and 32 hex digits of the file's content; symlinks are followed.

        Raises:
            OSError: the file is missing, not readable, or changed while it was read.
            SanaError: the database is damaged or its disk is full.
        """
        name = os.fsencode(os.path.abspath(path))
        stat = os.stat(name)
        cached = self._find(name, stat)
        if cached:
            return cached
        hasher = xxhash.xxh3_128() if self._algorithm == "xxh3" else hashlib.blake2b(digest_size=16)
        with open(name, "rb") as file:
            while block := file.read(READ_BYTES):
                hasher.update(block)
            after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise OSError(errno.EBUSY, "the file changed while it was read; is it still being written?", str(path))
        digest = f"{self._algorithm}:{hasher.hexdigest()}"
        if time.time_ns() - stat.st_mtime_ns > MIN_AGE_NS:
            self._store(name, stat, digest)
        return digest

    def _find(self, name: bytes, stat: os.stat_result) -> str | None:
        if self._path is None or self._rehash:
            return None
        try:
            with self._lock:
                row = self._open(self._path).execute(_FIND, (name, stat.st_size, stat.st_mtime_ns)).fetchone()
        except sqlite3.Error as error:
            if self._read_only:
                return None
            raise self._unusable(error) from error
        return row[0] if row else None

    def _store(self, name: bytes, stat: os.stat_result, digest: str) -> None:
        if self._path is None or self._read_only:
            return
        try:
            with self._lock:
                self._open(self._path).execute(_STORE, (name, stat.st_size, stat.st_mtime_ns, digest))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _open(self, path: Path) -> sqlite3.Connection:
        if self._database is None:
            if not self._read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            mode = "ro" if self._read_only else "rwc"
            database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=LOCK_TIMEOUT_S,
                isolation_level=None,  # every statement is its own transaction
                check_same_thread=False,  # the lock is ours
            )
            if not self._read_only:
                database.execute(
                    "PRAGMA synchronous = OFF"
                )  # a power cut may destroy the cache: files are hashed again
                database.execute(_TABLE)
            self._database = database
        return self._database

    def _unusable(self, error: sqlite3.Error) -> SanaError:
        return SanaError(
            f"the cache of file digests {self._path} cannot be used: {error}. Make room if the disk is full; "
            "else delete the file: it is built again"
        )
