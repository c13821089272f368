"""Indexes: which members an archive has, and where, kept on the disk so that an unchanged archive is read once.

An index is an Arrow file that is mapped into memory, and another with the rows of a Parquet file without its videos.
"""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from sana.atomic_io import atomic_write
from sana.data.archives.embedded import scan_rows
from sana.data.archives.members import DIGESTERS, MEMBERS, NO_ARCHIVE, Member, of_archive
from sana.data.archives.packed import scan_tar, scan_zip
from sana.data.file_heads import HEAD_BYTES, what_it_is

GZIP_SUFFIXES = (".tar.gz", ".tgz")

_KINDS = (
    (".zip", "a zip archive"),
    (".parquet", "a Parquet table"),
    (".tar", "a tar archive"),
    *((end, "a gzip file") for end in GZIP_SUFFIXES),
)
_VERSION = 3  # of what an index says: part of its name
_ROWS_AT_ONCE = 4096
_SMALL_BYTES = 2**16  # of an index that is read, not mapped


@dataclass(frozen=True)
class ArchiveIndex:
    """The members of an archive: a table MEMBERS, in the order of their bytes; `rows` of a Parquet file, else None."""

    members: pa.Table
    rows: pa.Table | None

    @property
    def why_no_archive(self) -> str:
        """Of a Parquet file that holds no videos, and is a file like any other: its columns, in words. Else ""."""
        first = self.member(0) if self.members.num_rows else None
        return first.trouble if first and first.method == NO_ARCHIVE else ""

    @cached_property
    def digest(self) -> str:
        """A digest of what all members hold."""
        columns = [self.members.column(name).to_pylist() for name in ("name", "digest")]
        return hashlib.blake2b(repr(columns).encode(), digest_size=16).hexdigest()

    def member(self, row: int) -> Member:
        """Return a row of the members, without its text."""
        names = [name for name in MEMBERS.names if name != "text"]
        return Member(**{name: self.members.column(name)[row].as_py() for name in names})


@dataclass(frozen=True)
class IndexFolder:
    """Indexes in `folder`, which may be deleted at any time; `read_only` adds none, `rehash` takes none from it."""

    folder: Path
    read_only: bool
    rehash: bool = False

    def load(self, key: str) -> ArchiveIndex | None:
        """Return the index that was stored under this key; None if there is none, or it is damaged."""
        if self.rehash:
            return None
        members, rows = self._paths(key)
        with suppress(OSError, pa.ArrowInvalid):
            return ArchiveIndex(_mapped(members), _mapped(rows) if rows.exists() else None)
        return None

    def build(self, key: str, name: str, file: IO[bytes], *, column: str | None, method: str) -> ArchiveIndex:
        """Read an archive, called `name`, from its beginning to its end. The index is stored unless the key is "".

        `column` is the one that holds the videos, if that is configured; `method` is "xxh3" or "sha256".
        """
        kept: list[pa.Table] = []
        members = _members_of(name, file, column, method, kept)
        if self.read_only or not key:
            buffer = pa.BufferOutputStream()
            _write(buffer, members)
            return ArchiveIndex(pa.ipc.open_file(buffer.getvalue()).read_all(), _joined(kept))
        at_members, at_rows = self._paths(key)
        with atomic_write(at_members) as temp:  # it commits the index, so the rows are there before it
            with pa.OSFile(str(temp), "wb") as out:
                _write(out, members)
            rows = _joined(kept)
            if rows is not None:
                with atomic_write(at_rows) as temp_rows, pa.OSFile(str(temp_rows), "wb") as out:
                    _write_rows(out, rows)
        return ArchiveIndex(_mapped(at_members), rows)

    def _paths(self, key: str) -> tuple[Path, Path]:
        name = hashlib.blake2b(f"{_VERSION}\0{key}".encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.members", self.folder / name[:2] / f"{name}.rows"


def _members_of(name: str, file: Any, column: str | None, method: str, kept: list[pa.Table]) -> Iterator[Member]:
    """Yield the members; a file that is no archive at all is named for what it is."""
    kind = next(kind for end, kind in _KINDS if name.lower().endswith(end))
    head = file.read(HEAD_BYTES)
    file.seek(0)
    for number, member in enumerate(_scanned(name, file, column, method, kept)):
        if number == 0 and not member.name and member.method != NO_ARCHIVE:
            said = what_it_is(head, kind) if head else "it is an empty file (0 bytes)"
            if said and not said.startswith(f"it is {kind}"):  # it is, but cannot be read
                yield of_archive(said)
                continue
        yield member


def _scanned(name: str, file: Any, column: str | None, method: str, kept: list[pa.Table]) -> Iterator[Member]:
    digester, end = DIGESTERS[method], name.lower()
    try:
        if end.endswith(".zip"):
            yield from scan_zip(file, digester, method)
        elif end.endswith(".parquet"):
            yield from scan_rows(file, name, column, digester, method, kept.append)
        elif end.endswith(GZIP_SUFFIXES):
            with gzip.GzipFile(fileobj=file) as plain:
                yield from scan_tar(plain, digester, method)  # type: ignore[arg-type]
        else:
            yield from scan_tar(file, digester, method)
    except OSError as error:  # also of gzip
        yield of_archive(f"it cannot be read: {error.strerror or error}")


def _joined(tables: list[pa.Table]) -> pa.Table | None:
    return pa.concat_tables(tables).combine_chunks() if tables else None


def _write(out: Any, members: Iterator[Member]) -> None:
    with pa.ipc.new_file(out, MEMBERS) as writer:
        while some := list(islice(members, _ROWS_AT_ONCE)):
            columns = [[getattr(member, name) for member in some] for name in MEMBERS.names]
            arrays = [pa.array(values, kind.type) for values, kind in zip(columns, MEMBERS, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=MEMBERS))


def _write_rows(out: Any, rows: pa.Table) -> None:
    with pa.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows, _ROWS_AT_ONCE)


def _mapped(path: Path) -> pa.Table:
    """Map a table into memory, or read a small one: a process may have 65,530 maps, and fewer open files."""
    if path.stat().st_size > _SMALL_BYTES:
        with suppress(OSError), pa.memory_map(str(path)) as mapped:  # closed again: the buffers keep the map
            return pa.ipc.open_file(mapped).read_all()
    return pa.ipc.open_file(path.read_bytes()).read_all()
