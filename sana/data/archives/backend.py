"""The backend of a data set with archives: their members are files beside the others, as if unpacked in place."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import digest_of
from sana.config.data import DatasetConfig
from sana.data.archives.caption_tables import CaptionTable, tables_of_json, tables_of_rows
from sana.data.archives.choice import choose_archives
from sana.data.archives.embedded import columns_note
from sana.data.archives.index import ArchiveIndex, IndexFolder
from sana.data.archives.reader import ArchiveReader
from sana.data.archives.virtual_folder import VirtualFolder, unpack_in_place
from sana.data.sources.backends import MISSING, LocalBackend, S3Backend, changed
from sana.data.sources.file_cache import FileCache
from sana.data.sources.hub_backend import HubBackend
from sana.data.sources.listing import LISTED, SourceFile, files_of, is_video_path, table_of_files
from sana.data.tables import content_digest
from sana.errors import ConfigError
from sana.runtime.threads import in_daemon_threads

INDEX_THREADS = 4  # archives that are read at the same time
_CAPTIONS = r"(?i)\.(txt|json|jsonl|csv|tsv|parquet)\z"  # files beside archives that may hold captions
_SHOWN = 3  # damaged archives that are named

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class _Unpacked:
    """What the archives hold, as files."""

    archives: list[SourceFile]
    indexes: list[ArchiveIndex]
    folder: VirtualFolder
    tables: dict[str, CaptionTable]
    listed: pa.Table  # LISTED, with the files beside them
    no_archives: dict[str, str]  # Parquet files without videos, and why


class ArchiveBackend:
    """Another backend, in whose listing archives are replaced by their members where `config` says so.

    A member's digest is that of its bytes, so a data set has the same content packed or not: "sha256:" from the hub,
    else "xxh3:". Members that are opened are unpacked into `cache`. `only` is the archive that is the whole source.
    """

    def __init__(
        self,
        inner: LocalBackend | S3Backend | HubBackend,
        config: DatasetConfig,
        cache: FileCache,
        indexes: IndexFolder,
        *,
        only: str = "",
    ) -> None:
        self._only = only
        self._inner, self._config, self._cache = inner, config, cache.sharing()
        self._reader = ArchiveReader(inner, cache, indexes, config.captions.video_column)
        self._lock = threading.RLock()
        self._chosen: tuple[pa.Table, list[SourceFile], list[str]] | None = None
        self._unpacked: _Unpacked | None = None

    @property
    def revision(self) -> str:
        return self._inner.revision

    @property
    def base(self) -> str:
        return self._inner.base

    @property
    def archives(self) -> list[SourceFile]:
        """The archives whose members are read, sorted by path."""
        return self._choice()[1]

    @property
    def notes(self) -> list[str]:
        """What a user should know of the choice of archives and, once they are read, of those that are damaged."""
        notes = list(self._choice()[2])
        if self._unpacked:
            broken = list(files_of(self._unpacked.folder.broken()))
            notes += [f"{file.path}: {file.trouble}" for file in broken[:_SHOWN]]
            read = zip(self._unpacked.archives, self._unpacked.indexes, strict=True)
            of_columns = (columns_note(file.path, index.rows) for file, index in read if index.rows is not None)
            notes += [next(filter(None, of_columns), "")]
        return list(filter(None, notes))

    def holds_rows(self, path: str) -> bool:
        """Whether a file is Parquet with videos in its rows."""
        return self._reader.holds_rows(path)

    def unread(self) -> list[SourceFile]:
        """Return the archives that have no index yet: listing the members reads them whole."""
        with self._lock:
            return [archive for archive in self.archives if self._reader.known(archive) is None]

    def listing_digest(self) -> str | None:
        """Return a digest of what the listing is made of, without reading an archive; None if none is to be read."""
        plain, archives, _ = self._choice()
        if not archives:
            return None
        may_be_read = pc.or_(
            is_video_path(plain.column("path"), images=self._may_read_pictures),
            pc.match_substring_regex(plain.column("path"), _CAPTIONS),
        )
        files = pa.concat_tables([table_of_files(archives), plain.filter(may_be_read)])
        others = plain.filter(pc.invert(may_be_read))  # as for a folder, their names and sizes are written down
        used = content_digest(files, ["path", *LISTED.names[1:]])
        if self._config.images == "read":  # what else a listing shows by its files, archives do not
            used = digest_of([used, "images"])
        return digest_of([used, content_digest(others, ["path", "num_bytes"])])

    @property
    def _may_read_pictures(self) -> bool:
        return self._config.images == "read" or self._config.masks is not None

    def table(self, report: Report | None = None) -> pa.Table:
        """Return a table LISTED of all files; reads archives that have no index, calling `report(done, total)`."""
        plain, archives, _ = self._choice()
        if not archives:
            return plain
        with self._lock:
            if self._unpacked is None:
                self._unpacked = self._unpack(plain, archives, report)
            return self._unpacked.listed

    def broken(self) -> pa.Table:
        """Return a table LISTED of the archives that cannot be read, or not to their end, each with its trouble."""
        return self._found().folder.broken() if self.archives else LISTED.empty_table()

    def why_no_archive(self) -> str:
        """Name a Parquet file that holds no videos, and its columns; "" if there is none."""
        found = self._found().no_archives if self.archives else {}
        return next((f"{path}: {why}; captions.video_column names another" for path, why in found.items()), "")

    def files(self) -> Iterator[SourceFile]:
        yield from files_of(self.table())

    def made_of(self, path: str) -> str:
        """Say what a table of captions was made of that no file is; "" of any other file."""
        table = self._unpacked.tables.get(path) if self._unpacked else None
        return table.made_of if table else ""

    def digest(self, file: SourceFile) -> str:
        return self._inner.digest(file) if self._is_stored(file.path, file.identity) else file.identity

    def read(self, file: SourceFile) -> bytes:
        if self._is_stored(file.path, file.identity):
            return self._inner.read(file)
        found = self._found()
        row = found.folder.find(file.path)
        if row is not None:
            return self._read_row(found, row)
        with self.open(file.path, digest=file.identity) as path:
            return path.read_bytes()

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        if self._is_stored(path, digest):
            return self._inner.open(path, digest=digest)
        found, suffix = self._found(), PurePosixPath(path).suffix
        made = found.tables.get(path)
        if made is not None and made.digest == digest:
            return self._cache.open(digest, suffix, size=lambda: made.num_bytes, fetch=made.write)
        row = found.folder.find(path)
        known = MISSING if row is None else found.folder.members.column("digest")[row].as_py()
        if row is None or known != digest:
            raise changed(f"{path}, packed in {self._config.source},", digest, known)
        number, at = found.folder.place(row)
        return self._reader.open(found.archives[number], found.indexes[number], at, suffix=suffix)

    def _is_stored(self, path: str, digest: str) -> bool:
        """Whether a path is of a file itself, not of a member of an archive. No request is made for a file of one."""
        inner = self._inner
        if isinstance(inner, HubBackend):
            return inner.holds(path) or not self.archives
        if isinstance(inner, LocalBackend):
            return os.path.lexists(os.path.join(inner.base, path)) or not self.archives
        return digest.startswith("etag:") or not self.archives

    def _choice(self) -> tuple[pa.Table, list[SourceFile], list[str]]:
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choose()
            return self._chosen

    def _choose(self) -> tuple[pa.Table, list[SourceFile], list[str]]:
        if not self._only or isinstance(self._inner, HubBackend):
            return choose_archives(table_of_files(self._inner.files()), self._config)
        archives = list(self._inner.find([self._only]))
        if not archives:
            raise ConfigError(f"source {self._config.source} is not there")
        return LISTED.empty_table(), archives, []

    def _found(self) -> _Unpacked:
        self.table()
        assert self._unpacked is not None  # it is asked only where there are archives
        return self._unpacked

    def _read_row(self, found: _Unpacked, row: int) -> bytes:
        number, at = found.folder.place(row)
        return self._reader.read(found.archives[number], found.indexes[number], at)

    def _unpack(self, plain: pa.Table, archives: list[SourceFile], report: Report | None) -> _Unpacked:
        indexes: list[ArchiveIndex] = []

        def tell() -> None:
            if report:
                report(len(indexes), len(archives))

        read = in_daemon_threads(self._reader.index, archives, num_threads=INDEX_THREADS, while_waiting=tell)
        for index in read:
            indexes.append(index)
            tell()
        no_archives = {a.path: why for a, index in zip(archives, indexes, strict=True) if (why := index.why_no_archive)}
        others = [archive for archive in archives if archive.path in no_archives]
        indexes = [index for index in indexes if not index.why_no_archive]
        archives = [archive for archive in archives if archive.path not in no_archives]
        plain = _joined(plain, table_of_files(others))
        images = self._config.images == "read"
        names = [archive.path for archive in archives]
        folder = unpack_in_place(plain.column("path").combine_chunks(), names, indexes, images=images)
        tables = {table.path: table for table in tables_of_rows(archives, indexes, folder, self._config.captions)}
        listed = _joined(plain, folder.listed(), table_of_files(table.file for table in tables.values()))
        found = _Unpacked(archives, indexes, folder, tables, listed, no_archives)
        text_of = lambda row: self._read_row(found, row)  # noqa: E731 - bound to what was found
        made, used = tables_of_json(archives, listed, folder, self._config.captions, text_of, images=images)
        unused = listed.filter(pc.invert(pc.is_in(listed.column("path"), used)))
        listed = _joined(unused, table_of_files(table.file for table in made))
        tables |= {table.path: table for table in made}
        return replace(found, tables=tables, listed=listed)


def _joined(*tables: pa.Table) -> pa.Table:
    return pa.concat_tables(tables).sort_by("path").combine_chunks()
