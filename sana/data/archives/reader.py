"""Reading archives where they lie: their indexes, and single members, of which only the bytes needed are read."""

import gzip
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sana.data.archives.embedded import open_rows, video_column
from sana.data.archives.index import GZIP_SUFFIXES, ArchiveIndex, IndexFolder
from sana.data.archives.members import DIGESTERS, MEMBERS, Member, RangeFile, of_archive
from sana.data.archives.packed import READ_BYTES, DamagedError, unpacked
from sana.data.sources.backends import LocalBackend, S3Backend, changed
from sana.data.sources.digest_cache import MIN_AGE_NS
from sana.data.sources.file_cache import FileCache
from sana.data.sources.hub_backend import HubBackend
from sana.data.sources.listing import SourceFile

_GROUP_SHARE = 2  # of the cache, what the videos of one row group may fill
_GROUP_LOCKS = 64  # so that threads that open neighbours do not unpack a row group twice


class ArchiveReader:
    """Reads the archives of a backend. Thread-safe.

    A remote archive is fetched into `cache` to be indexed, and its members are taken from there while it is; later, or
    where the cache cannot hold it, they are requested by their ranges. `column` is the configured column of videos.
    """

    def __init__(
        self, inner: LocalBackend | S3Backend | HubBackend, cache: FileCache, indexes: IndexFolder, column: str | None
    ) -> None:
        self._inner, self._cache, self._indexes, self._column = inner, cache, indexes, column
        self._unpack_cache = cache.sharing()  # what is unpacked was not fetched
        self._method = "sha256" if isinstance(inner, HubBackend) else "xxh3"
        self._known: dict[str, ArchiveIndex] = {}
        self._group_locks = [threading.Lock() for _ in range(_GROUP_LOCKS)]

    def known(self, archive: SourceFile) -> ArchiveIndex | None:
        """Return the index of an archive if nothing of the archive must be read for it."""
        if archive.trouble:
            return _broken(archive.trouble)
        if archive.path not in self._known:
            key = self._key(archive)
            found = self._indexes.load(key) if key else None
            if found is None:
                return None
            self._known[archive.path] = found
        return self._known[archive.path]

    def index(self, archive: SourceFile) -> ArchiveIndex:
        """Return the index of an archive, which is read whole if there is none.

        Raises:
            SanaError: it cannot be fetched, or changed meanwhile.
        """
        found = self.known(archive)
        if found is not None:
            return found
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self._whole(archive))
            except OSError as error:
                if not isinstance(self._inner, LocalBackend):
                    raise
                return _broken(f"it cannot be read: {error.strerror or error}")
            name, key = archive.path, self._key(archive)
            found = self._indexes.build(key, name, file, column=self._column, method=self._method)
            if isinstance(self._inner, LocalBackend):
                now = os.fstat(file.fileno())
                if (now.st_size, f"mtime_ns:{now.st_mtime_ns}") != (archive.num_bytes, archive.identity):
                    return _broken("it changed while it was read; is it still being written?")
        self._known[archive.path] = found
        return found

    def _key(self, archive: SourceFile) -> str:
        """Return the name of the archive's index: what the index depends on; "" if it may change without a sign."""
        if not isinstance(self._inner, LocalBackend):
            return f"{archive.identity}\0{PurePosixPath(archive.path).name}\0{self._column}"
        if time.time_ns() - int(archive.identity.partition(":")[2]) <= MIN_AGE_NS:
            return ""
        return f"{self._inner.base}/{archive.path}\0{archive.num_bytes}\0{archive.identity}\0{self._column}"

    @contextmanager
    def _whole(self, archive: SourceFile) -> Iterator[IO[bytes]]:
        """Open an archive to read all of it: fetched into the cache if that can hold it, else by ranges."""
        inner = self._inner
        if isinstance(inner, LocalBackend):
            with open(os.path.join(inner.base, archive.path), "rb") as file:
                yield file
        elif archive.num_bytes <= self._cache.max_bytes:
            with inner.open(archive.path, digest=archive.identity) as path, path.open("rb") as file:
                yield file
        else:
            with BufferedReader(self._ranges(archive), READ_BYTES) as ranges:
                yield ranges
            inner.check_unchanged(archive)

    def _ranges(self, archive: SourceFile) -> RangeFile:
        assert not isinstance(self._inner, LocalBackend)
        return RangeFile(archive.num_bytes, partial(self._inner.read_range, archive.path))

    @contextmanager
    def _part(self, archive: SourceFile, index: ArchiveIndex) -> Iterator[Any]:
        """Open an archive to read parts of it: on the disk if it is there, else by ranges. A .tar.gz is unzipped."""
        if archive.path.lower().endswith(GZIP_SUFFIXES):
            ends = pc.add(index.members.column("start"), index.members.column("stored_bytes"))
            num_bytes = pc.max(ends).as_py() or 0

            def unzip(to: Path) -> None:
                with self._whole(archive) as file, gzip.GzipFile(fileobj=file) as plain, to.open("wb") as out:
                    for start in range(0, num_bytes, READ_BYTES):
                        out.write(plain.read(min(READ_BYTES, num_bytes - start)))

            tar = self._unpack_cache.open(f"tar of {index.digest}", ".tar", size=lambda: num_bytes, fetch=unzip)
            with tar as path, path.open("rb") as plain_tar:
                yield plain_tar
        elif isinstance(self._inner, LocalBackend):
            with self._whole(archive) as file:
                yield file
        else:
            with self._cache.open_cached(archive.identity, PurePosixPath(archive.path).suffix) as cached:
                if cached is None:
                    yield self._ranges(archive)  # unbuffered: only what is asked for is requested
                else:
                    with cached.open("rb") as file:
                        yield file

    def read(self, archive: SourceFile, index: ArchiveIndex, row: int) -> bytes:
        """Return the bytes of a member: from the index if it keeps them.

        Raises:
            SanaError: they are not what was listed.
        """
        text = index.members.column("text")[row].as_py()
        if text is not None:
            return bytes(text)
        with self.open(archive, index, row, suffix="") as path:
            return path.read_bytes()

    @contextmanager
    def open(self, archive: SourceFile, index: ArchiveIndex, row: int, *, suffix: str) -> Iterator[Path]:
        """Give a member as a local file in the cache, valid until the context ends.

        Raises (on entry):
            SanaError: its bytes are not what was listed, or cannot be fetched.
        """
        member = index.member(row)
        if archive.path.lower().endswith(".parquet"):
            self._unpack_group(archive, index, member, suffix)

        def unpack(to: Path) -> None:
            hasher = DIGESTERS[self._method]()
            try:
                with self._part(archive, index) as file, to.open("wb") as out:
                    for block in _blocks(archive, member, file, self._column):
                        hasher.update(block)
                        out.write(block)
                found = f"{self._method}:{hasher.hexdigest()}"
            except DamagedError as error:
                found = str(error)
            if found != member.digest:
                raise changed(f"{member.name} in {archive.path}", member.digest, found)

        with self._unpack_cache.open(member.digest, suffix, size=lambda: member.num_bytes, fetch=unpack) as path:
            yield path

    def _unpack_group(self, archive: SourceFile, index: ArchiveIndex, member: Member, suffix: str) -> None:
        """Unpack the row group of a video that is not in the cache, if there is room: one row costs as much as all."""
        if self._is_unpacked(member, suffix):
            return
        starts, sizes = (index.members.column(name).to_numpy() for name in ("start", "num_bytes"))
        try:
            with self._part(archive, index) as file, open_rows(file, self._column) as rows:
                group, all_rows = rows.group_of(member.start)
                inside = np.flatnonzero((starts >= all_rows.start) & (starts < all_rows.stop))
                if sizes[inside].sum() > self._cache.max_bytes // _GROUP_SHARE:
                    return
                with self._group_locks[hash((archive.path, group)) % len(self._group_locks)]:
                    if self._is_unpacked(member, suffix):
                        return
                    members = {other.start: other for at in inside.tolist() if not (other := index.member(at)).trouble}
                    for row, data in rows.videos(group, all_rows):
                        if row in members:
                            self._keep(members[row], data)
        except DamagedError:  # the video itself is unpacked next, and says so
            return

    def _is_unpacked(self, member: Member, suffix: str) -> bool:
        with self._unpack_cache.open_cached(member.digest, suffix) as cached:
            return cached is not None

    def _keep(self, member: Member, data: memoryview) -> None:
        hasher = DIGESTERS[self._method]()
        hasher.update(data)
        if f"{self._method}:{hasher.hexdigest()}" == member.digest:
            suffix = PurePosixPath(member.name).suffix
            write = partial(_write, data)
            with self._unpack_cache.open_if_room(member.digest, suffix, size=lambda: len(data), fetch=write):
                pass

    def holds_rows(self, path: str) -> bool:
        """Whether a file is Parquet with videos in its rows: only its end is read, where the columns are named."""
        file = None if isinstance(self._inner, HubBackend) else next(iter(self._inner.find([path])), None)
        if file is None or file.trouble or not path.lower().endswith(".parquet"):
            return False
        try:
            with self._whole(file) if isinstance(self._inner, LocalBackend) else self._ranges(file) as opened:
                return video_column(pq.read_schema(opened), self._column) is not None
        except (pa.ArrowException, OSError):  # as a table it says what is wrong
            return False


def _broken(trouble: str) -> ArchiveIndex:
    """Return the index of an archive of which nothing can be read."""
    row = of_archive(trouble)
    return ArchiveIndex(pa.Table.from_pylist([{name: getattr(row, name) for name in MEMBERS.names}], MEMBERS), None)


def _write(data: memoryview, to: Path) -> None:
    to.write_bytes(data)


def _blocks(archive: SourceFile, member: Member, file: Any, column: str | None) -> Iterator[Any]:
    if archive.path.lower().endswith(".parquet"):
        with open_rows(file, column) as rows:
            yield from (data for row, data in rows.videos(*rows.group_of(member.start)) if row == member.start)
    else:
        yield from unpacked(file, member)
