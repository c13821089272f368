"""Backends that may hold a data set: a local folder, an S3 prefix; see also `hub_backend`. All are read-only."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from sana.data.sources.digest_cache import DigestCache
from sana.data.sources.file_cache import FileCache
from sana.data.sources.listing import ARCHIVE_SUFFIXES, TABLE_SUFFIXES, SourceFile, is_hidden, is_video, printable
from sana.data.sources.outputs import NO_OUTPUTS, Outputs
from sana.errors import ConfigError, SanaError

if TYPE_CHECKING:
    from sana.store_s3 import ObjectInfo  # a second to import: only for those who use S3

MAX_LOOKUPS = 64  # named S3 objects looked up one by one, more by a listing of their folder, which may be far longer
_FILE_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}

MISSING = "missing"  # identity or digest of a file that cannot be read or does not exist any more


class Backend(Protocol):
    """Storage of a data set. Methods are thread-safe; an OSError concerns one file, a SanaError the whole data set."""

    @property
    def revision(self) -> str: ...  # the commit, of a Hugging Face data set; else ""
    @property
    def base(self) -> str: ...  # prefix of absolute paths of its files, without a final "/"; "" if there is none
    def files(self) -> Iterator[SourceFile]: ...  # all but hidden ones, in any order
    def digest(self, file: SourceFile) -> str: ...  # of the content
    def read(self, file: SourceFile) -> bytes: ...
    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]: ...  # a local file, valid until exit


def changed(where: str, digest: str, found: str) -> SanaError:
    """Return the error for a file that is not what the listing said."""
    return SanaError(
        f"{where} is not what was listed: its content was {digest}, now it is {found}. "
        "Run again: the download stage takes the new content; if the file kept its size and time, with --rehash"
    )


def _meant(folder: Path) -> str:
    """Say which place may be meant by one that is no folder, if any."""
    if "*" in folder.name:
        return f"; * is not expanded here, name the folder: {folder.parent}"
    if folder.is_file():
        return f"; its folder is {folder.parent}"
    try:
        names = {name.lower(): name for name in os.listdir(folder.parent)}
    except OSError:
        return ""
    near = get_close_matches(folder.name.lower(), names, n=1, cutoff=0.8)
    return f"; did you mean {folder.parent / names[near[0]]}?" if near else ""


class LocalBackend:
    """A folder, read in place."""

    revision = ""

    def __init__(self, folder: Path, digests: DigestCache, outputs: Outputs = NO_OUTPUTS) -> None:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "not there"
            raise ConfigError(
                f"source {folder} is {what}; a folder with videos is needed, or a table or archive: "
                f"{', '.join(dict.fromkeys(TABLE_SUFFIXES + ARCHIVE_SUFFIXES))}{_meant(folder)}"
            )
        self._folder = folder
        self._digests = digests
        self._outputs = outputs
        self._real_folders: dict[str, str] = {}
        self.base = str(folder).rstrip("/")

    def files(self) -> Iterator[SourceFile]:
        with self._listing_errors():
            self._outputs.check(str(self._folder), os.path.realpath(self._folder))
            for path in self._walk("", frozenset()):
                yield self._file(path)

    def find(self, paths: Iterable[str]) -> Iterator[SourceFile]:
        """Yield the files that exist, whatever their suffix."""
        with self._listing_errors():
            for path in paths:
                if os.path.lexists(self._folder / path):
                    self._outputs.check_file(str(self._folder), self._real_path(path))
                    yield self._file(path)

    def _walk(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Yield all paths below but hidden ones. Symlinks are followed, but not back to a folder above.

        Raises:
            ConfigError: a link leads to what the pipeline writes.
        """
        here = os.stat(self._folder / folder)
        key = (here.st_dev, here.st_ino)
        if key in above:
            return
        with os.scandir(self._folder / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if is_hidden(entry.name):
                    continue
                if entry.is_symlink():
                    self._outputs.check(str(self._folder), os.path.realpath(entry.path), link=printable(entry.path))
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    yield from self._walk(f"{path}/", above | {key})
                    if is_video(path):
                        yield path  # a folder named like a video is a reject, besides the videos in it
                else:
                    yield path

    def _real_path(self, path: str) -> str:
        """Return a file's path without links; a folder is resolved once, as millions of files may be in it."""
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(self._folder / folder)
        real = os.path.join(self._real_folders[folder], name)
        return os.path.realpath(real) if os.path.islink(real) else real

    @contextmanager
    def _listing_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SanaError(f"cannot list source {self._folder}: {error}. Make it readable, or move it out") from error

    def _file(self, path: str) -> SourceFile:
        """Return the file, with its trouble if it cannot be read."""
        printed = printable(path)
        trouble = "" if printed == path else "its name is not UTF-8; rename it"
        found = None
        try:
            found = os.stat(self._folder / path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            trouble = trouble or "a symbolic link that leads nowhere"
        if found and not stat.S_ISREG(found.st_mode):
            trouble = trouble or f"not a file, but {_FILE_KINDS.get(stat.S_IFMT(found.st_mode), 'a device')}"
        if trouble or not found:
            return SourceFile(printed, 0, MISSING, trouble)
        return SourceFile(path, found.st_size, f"mtime_ns:{found.st_mtime_ns}")

    def digest(self, file: SourceFile) -> str:
        return self._digests.digest(self._folder / file.path)

    def read(self, file: SourceFile) -> bytes:
        return (self._folder / file.path).read_bytes()

    @contextmanager
    def open(self, path: str, *, digest: str) -> Iterator[Path]:
        local = self._folder / path
        try:
            found = self._digests.digest(local)
        except FileNotFoundError:
            found = MISSING
        if found != digest:  # results would be stored under the wrong digest for good
            raise changed(str(local), digest, found)
        yield local


class S3Backend:
    """A prefix in a bucket. The ETag identifies the content; a re-upload in other parts counts as other content."""

    revision = ""

    def __init__(self, uri: str, cache: FileCache, outputs: Outputs = NO_OUTPUTS) -> None:
        from sana.store_s3 import S3Store  # a second to import: only for those who use S3

        try:
            self._store = S3Store(uri)
        except ValueError as error:
            raise ConfigError(f"source {uri}: {error}") from error
        self._cache = cache
        self._outputs = outputs
        self.base = self._store.root

    def files(self) -> Iterator[SourceFile]:
        self._outputs.check(self.base, self.base)
        for found in self._store.iter_objects(""):
            if not is_hidden(found.key) and not _is_folder(found):
                yield self._file(found)

    def find(self, paths: Iterable[str]) -> Iterator[SourceFile]:
        """Yield the objects that exist, whatever their suffix: few by one request each, many by one listing."""
        troubles = {path: _key_trouble(path) for path in paths}
        yield from (SourceFile(printable(path), 0, MISSING, why) for path, why in troubles.items() if why)
        wanted = {path for path, why in troubles.items() if not why}
        for key in wanted:
            self._outputs.check_file(self.base, f"{self.base}/{key}")
        if len(wanted) <= MAX_LOOKUPS:
            for key in sorted(wanted):
                with suppress(FileNotFoundError):
                    yield self._file(self._store.info(key))
            return
        folder = os.path.commonpath([os.path.dirname(key) for key in (min(wanted), max(wanted))])
        for found in self._store.iter_objects(folder):
            if found.key in wanted:
                yield self._file(found)

    def _file(self, found: "ObjectInfo") -> SourceFile:
        trouble = _key_trouble(found.key)
        if trouble:
            return SourceFile(printable(found.key), 0, MISSING, trouble)
        if not found.etag:
            raise SanaError(f"{self._store.uri(found.key)}: the server gives no ETag; use one that does")
        return SourceFile(found.key, found.num_bytes, f"etag:{found.etag}")

    def digest(self, file: SourceFile) -> str:
        return file.identity

    def read(self, file: SourceFile) -> bytes:
        return self._store.read(file.path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object, from `start` on."""
        return self._store.read_range(path, start, length)

    def check_unchanged(self, file: SourceFile) -> None:
        """Raise SanaError when a file that was read by ranges is not what was listed."""
        found = next(self.find([file.path]), None)
        if found is None or found.identity != file.identity:
            raise changed(self._store.uri(file.path), file.identity, found.identity if found else MISSING)

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        def size() -> int:
            try:
                found = self._store.info(path)
            except FileNotFoundError:
                raise changed(self._store.uri(path), digest, MISSING) from None
            if f"etag:{found.etag}" != digest:
                raise changed(self._store.uri(path), digest, f"etag:{found.etag}")
            return found.num_bytes

        def fetch(to: Path) -> None:
            self._store.fetch(path, to)
            if to.stat().st_size != size():  # looked up after the fetch: were the bytes this object's?
                raise SanaError(f"{self._store.uri(path)} came with {to.stat().st_size} bytes, not {size()}; run again")

        return self._cache.open(digest, PurePosixPath(path).suffix, size=size, fetch=fetch)


def _is_folder(found: "ObjectInfo") -> bool:
    """Whether it is the empty object that consoles and mounts put where they show a folder."""
    return not found.num_bytes and (not found.key or found.key.endswith(("/", "_$folder$")))


def _key_trouble(key: str) -> str:
    """Say why an S3 key, which may be any text, is not a valid path here; "" if it is."""
    from sana.store_s3 import check_s3_key  # a second to import: only for those who use S3

    try:
        check_s3_key(key)
    except ValueError as error:
        return f"{error}; rename it"
    return ""
