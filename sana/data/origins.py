"""The places a data set may be: a local folder, an S3 prefix, a Hugging Face data set. They are only ever read."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from sana.data.digest_cache import DigestCache
from sana.data.hub import HubFile, HubRepo
from sana.data.video_cache import VideoCache
from sana.errors import ConfigError, SanaError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
CAPTION_SUFFIX = ".txt"
MISSING = "missing"  # identity of a symlink that points nowhere: it is listed, so that it is refused and not forgotten


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set: `path` is relative, with "/"; `identity` is what a listing shows of its content.

    Identities: "mtime_ns:<ns>", "etag:<etag>", "sha256:<hex>" or "git:<hex>".
    """

    path: str
    num_bytes: int
    identity: str


class Origin(Protocol):
    """A place. Its methods are thread-safe; OSError is one file's trouble, SanaError the whole place's."""

    @property
    def revision(self) -> str: ...  # the commit, where there is such a thing; else ""
    def files(self) -> Iterator[SourceFile]: ...  # videos and texts, hidden ones left out, in any order
    def digest(self, file: SourceFile) -> str: ...  # of the content
    def read(self, file: SourceFile) -> bytes: ...
    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]: ...  # a local file, there until exit


def is_video(path: str) -> bool:
    """Whether the name ends as a video's does, in any case."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def _is_wanted(path: str) -> bool:
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))
    return not hidden and (is_video(path) or path.endswith(CAPTION_SUFFIX))


def _changed(where: str, digest: str, found: str) -> SanaError:
    return SanaError(
        f"{where} is not what was listed: its content was {digest}, now it is {found}. "
        "Run again: the download stage takes the new content"
    )


class LocalOrigin:
    """A folder, read in place."""

    revision = ""

    def __init__(self, folder: Path, digests: DigestCache) -> None:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "not there"
            raise ConfigError(f"source {folder} is {what}; a folder with videos is needed")
        self._folder = folder
        self._digests = digests

    def files(self) -> Iterator[SourceFile]:
        try:
            for path in _walk(str(self._folder), "", frozenset()):
                try:
                    found = os.stat(self._folder / path)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
                    yield SourceFile(path, 0, MISSING)  # a link that leads nowhere: refused by name, later
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield SourceFile(path, found.st_size, f"mtime_ns:{found.st_mtime_ns}")
        except OSError as error:
            raise SanaError(f"cannot list source {self._folder}: {error}. Make it readable, or move it out") from error

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
        if found != digest:  # what is computed from it would be kept under the wrong name, for ever
            raise _changed(str(local), digest, found)
        yield local


def _walk(root: str, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the wanted names below `root`, through symlinks; one that leads back to a folder above ends there."""
    here = os.stat(os.path.join(root, folder))
    key = (here.st_dev, here.st_ino)
    if key in above:
        return
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                yield from _walk(root, f"{path}/", above | {key})
            elif _is_wanted(path):
                yield path


class S3Origin:
    """A prefix in a bucket. The ETag stands for the content; a re-upload in other parts counts as another content."""

    revision = ""

    def __init__(self, uri: str, cache: VideoCache) -> None:
        from sana.store_s3 import S3Store  # a second to import: only for those who use S3

        try:
            self._store = S3Store(uri)
        except ValueError as error:
            raise ConfigError(f"source {uri}: {error}") from error
        self._cache = cache

    def files(self) -> Iterator[SourceFile]:
        for found in self._store.list_objects(""):
            if _is_wanted(found.key):
                if not found.etag:
                    raise SanaError(f"{self._store.uri(found.key)}: the server gives no ETag; use one that does")
                yield SourceFile(found.key, found.num_bytes, f"etag:{found.etag}")

    def digest(self, file: SourceFile) -> str:
        return file.identity

    def read(self, file: SourceFile) -> bytes:
        return self._store.read(file.path)

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        def size() -> int:
            try:
                found = self._store.info(path)
            except FileNotFoundError:
                raise _changed(self._store.uri(path), digest, MISSING) from None
            if f"etag:{found.etag}" != digest:
                raise _changed(self._store.uri(path), digest, f"etag:{found.etag}")
            return found.num_bytes

        def fetch(to: Path) -> None:
            self._store.fetch(path, to)
            if to.stat().st_size != size():  # asked after the bytes came: were they this object's?
                raise SanaError(f"{self._store.uri(path)} came with {to.stat().st_size} bytes, not {size()}; run again")

        return self._cache.open(digest, PurePosixPath(path).suffix, size=size, fetch=fetch)


class HubOrigin:
    """A Hugging Face data set at the commit that its revision is when first asked."""

    def __init__(self, repo: HubRepo, revision: str, cache: VideoCache) -> None:
        self._repo = repo
        self._asked = revision
        self._cache = cache

    @cached_property
    def _snapshot(self) -> tuple[str, dict[str, HubFile]]:
        """The commit and its files, together: two threads may both ask, and the branch may move in between."""
        commit = self._repo.resolve(self._asked)
        return commit, {file.path: file for file in self._repo.list_files(commit) if _is_wanted(file.path)}

    @property
    def revision(self) -> str:
        return self._snapshot[0]

    def files(self) -> Iterator[SourceFile]:
        commit, files = self._snapshot
        first = next((path for path in sorted(files) if is_video(path)), None)
        if first:
            self._repo.check_access(commit, first)
        for file in files.values():
            yield SourceFile(file.path, file.num_bytes, file.digest)

    def digest(self, file: SourceFile) -> str:
        return file.identity

    def read(self, file: SourceFile) -> bytes:
        with self.open(file.path, digest=file.identity) as path:
            return path.read_bytes()

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        def listed() -> tuple[str, HubFile]:
            commit, files = self._snapshot
            file = files.get(path)
            if file is None or file.digest != digest:
                raise _changed(f"{path} of {self._repo.page}", digest, file.digest if file else MISSING)
            return commit, file

        return self._cache.open(
            digest,
            PurePosixPath(path).suffix,
            size=lambda: listed()[1].num_bytes,
            fetch=lambda to: self._repo.fetch(*listed(), to),
        )
