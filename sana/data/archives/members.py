"""Members of archives: what is known of each, which names are taken, and files that are read by ranges."""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import xxhash

from sana.data.sources.listing import printable

MAX_TEXT_BYTES = 64 * 2**20  # of a member with captions that is kept in the index
STORED = 0  # the method of a member whose bytes lie in the archive as they are; others are zip's numbers
NO_ARCHIVE = -1

_TEXT_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

MEMBERS = pa.schema(
    [
        ("name", pa.large_string()),  # path in the archive; empty: the row is about the archive as a whole
        ("start", pa.int64()),  # first byte in the archive; in Parquet: the row
        ("stored_bytes", pa.int64()),  # bytes in the archive, from `start` on; in Parquet: 0
        ("num_bytes", pa.int64()),  # bytes of the member
        ("method", pa.int16()),
        ("digest", pa.string()),
        ("trouble", pa.large_string()),  # why it cannot be read; empty: it can
        ("text", pa.large_binary()),  # the bytes of a small file with captions, else null
    ]
)


class Hasher(Protocol):
    """A hash object of hashlib or xxhash."""

    def update(self, data: Any, /) -> object: ...
    def hexdigest(self) -> str: ...


Digester = Callable[[], Hasher]
DIGESTERS: dict[str, Digester] = {"xxh3": xxhash.xxh3_128, "sha256": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class Member:
    """One row of the table MEMBERS."""

    name: str
    start: int = 0
    stored_bytes: int = 0
    num_bytes: int = 0
    method: int = STORED
    digest: str = ""
    trouble: str = ""
    text: bytes | None = None


def of_archive(trouble: str) -> Member:
    """Return the row that says what is wrong with the archive, or with all of it that follows the other rows."""
    return Member("", trouble=trouble)


def not_an_archive(why: str) -> Member:
    """Return the only row of a file that holds no videos: it is a file like any other."""
    return Member("", method=NO_ARCHIVE, trouble=why)


def clean_name(written: str) -> tuple[str, str]:
    """Return (path below the archive's folder, "") of a name in an archive; or (the name as it can be printed, why).

    A leading `./` is dropped. A name that would lead out of the folder is never cut to one that does not.
    """
    shown = printable(written)
    if "\0" in written:
        return shown, "its name has a NUL in it"
    if shown != written:
        return shown, "its name is not UTF-8"
    if written.startswith("/") or _DRIVE.match(written):
        return shown, "its name is an absolute path"
    parts = [part for part in written.split("/") if part not in ("", ".")]
    if ".." in parts:
        return shown, "its name leads through '..', out of the archive's folder"
    return ("/".join(parts), "") if parts else (shown, "it has no name")


def holds_text(name: str, num_bytes: int) -> bool:
    """Whether a member may hold captions, and is small enough to be kept in the index."""
    return name.lower().endswith(_TEXT_SUFFIXES) and num_bytes <= MAX_TEXT_BYTES


class RangeFile(io.RawIOBase):
    """A remote file of `num_bytes` bytes that is read by ranges: each read is one request."""

    def __init__(self, num_bytes: int, read_range: Callable[[int, int], bytes]) -> None:
        self._num_bytes, self._read_range, self._at = num_bytes, read_range, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + (0, self._at, self._num_bytes)[whence])
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), max(0, self._num_bytes - self._at))
        if length:
            view[:length] = self._read_range(self._at, length)
        self._at += length
        return length
