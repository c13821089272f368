"""The one door to storage: a folder on a disk or a prefix in an S3 bucket, behind the same dozen methods.

`put_if_absent` is the primitive that everything else is built on: an object appears whole, once, or not at all.
No object is ever opened for writing: an exception inside s3fs's `open(..., "wb")` publishes the bytes sent so far.
"""

import errno
import io
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from urllib.parse import unquote

from sana.atomic_io import TEMP_PREFIX, atomic_write, fsync_folder, make_folders, read_at
from sana.store_errors import TRUNCATED, StoreError, clear_errors

COPY_BYTES = 2**20

Block = bytes | memoryview
Listing = list[tuple[str, int]]  # (key, bytes)
Names = list[str]


class Entry(NamedTuple):
    """One listed object."""

    key: str
    num_bytes: int
    modified_at: float  # Unix time, seconds, by the clock of the disk or of S3


Entries = list[Entry]


class Store(Protocol):
    """Keys are relative, `/`-separated names such as `probe/3f2a/artifact.json`; sizes and offsets are bytes.

    Every method is thread-safe, and raises ValueError for a key that could leave the root, FileNotFoundError (with
    the uri) where there is no such object, and StoreError for all else that storage refuses.
    """

    @property
    def root(self) -> str: ...  # absolute path, or s3://bucket/prefix; no trailing slash
    @property
    def is_local(self) -> bool: ...
    def uri(self, key: str) -> str: ...  # absolute path, or s3://bucket/prefix/key
    def local_path(self, key: str) -> Path | None: ...  # the file, for mmap or decord; None on S3
    def exists(self, key: str) -> bool: ...
    def size(self, key: str) -> int: ...
    def read(self, key: str) -> bytes: ...
    def read_range(self, key: str, start: int, length: int) -> bytes: ...  # StoreError if the object ends before
    def read_into(self, key: str, start: int, buffer: memoryview) -> None: ...  # the same, fills a buffer of bytes

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object: whole, durable, once. False: an object is there, and was not touched.

        A PUT whose reply was lost, was sent again and finds itself is True.
        """

    def put_file_if_absent(self, key: str, path: Path) -> bool: ...  # the same from a local file, which is copied
    def put_blocks_if_absent(self, key: str, blocks: Iterable[Block], *, staging: Path) -> bool:
        """The same of an object that comes block by block: it is not in memory at once, and on a disk not copied.

        `staging` is a local folder, where S3 keeps the object until it is sent.
        """

    def link_if_absent(self, key: str, existing: str) -> bool:
        """Give an object a second name, on a disk, by a hard link or else a copy; False on S3, which has no links."""

    def list(self, prefix: str) -> Listing: ...  # all below the folder ("": the root), at any depth, sorted by key
    def list_entries(self, prefix: str) -> Entries: ...  # the same with times
    def list_dirs(self, prefix: str) -> Names: ...  # folders directly in the folder, sorted; a disk's may be empty
    def delete(self, key: str) -> None: ...  # fine if there is none
    def fetch(self, key: str, path: Path) -> None: ...  # to a local file, replaced whole or not at all
    def check_writable(self) -> None: ...  # puts and deletes a small object; StoreError if that fails
    def incomplete_uploads(self, *, older_than_s: float, delete: bool) -> Entries:
        """Return what killed puts left and no listing shows: temporary files, multi-part uploads; deleted if asked."""

    def free_bytes(self) -> int | None: ...  # what this user may still write; None where nobody knows (S3)


def open_store(root: str) -> Store:
    """Open a local path (`~` and `file://` accepted, made absolute) or `s3://bucket/prefix`.

    S3 is contacted at once, so a wrong endpoint, secret or bucket is reported here, within about 10 s.

    Raises:
        ValueError: the root is empty or of another scheme.
        StoreError: S3 does not answer or refuses.
    """
    if root.startswith("s3://"):
        from sana.store_s3 import S3Store  # only for those who use S3

        return S3Store(root)
    path = local_root(root)
    if not root or "://" in path or "\0" in path:
        raise ValueError(f"root {root!r} is neither a local path (or file:///path) nor s3://bucket/prefix")
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"root {root} is a file; a folder, or a name for a new one, is needed")
    return LocalStore(os.path.abspath(path))


def local_root(root: str) -> str:
    """Return the path that a local root names: `~` and `file://` are resolved."""
    return os.path.expanduser(unquote(root.removeprefix("file://")) if root.startswith("file:///") else root)


class LocalStore:
    """A folder. It need not exist: the first put makes it."""

    is_local = True

    def __init__(self, root: str) -> None:
        self.root = root

    def uri(self, key: str) -> str:
        return str(self.local_path(key))

    def local_path(self, key: str) -> Path:
        return Path(self.root, check_key(key))

    def exists(self, key: str) -> bool:
        with clear_errors(self.uri(key), OSError):
            return self.local_path(key).is_file()

    def size(self, key: str) -> int:
        with clear_errors(self.uri(key), OSError), self.local_path(key).open("rb") as file:  # open refuses a folder
            return os.fstat(file.fileno()).st_size

    def read(self, key: str) -> bytes:
        with clear_errors(self.uri(key), OSError):
            return self.local_path(key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(key, start, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        buffer = byte_view(start, buffer)
        with clear_errors(self.uri(key), OSError), self.local_path(key).open("rb", buffering=0) as file:
            done = read_at(file.fileno(), start, buffer)
        if done < len(buffer):
            raise StoreError(f"{self.uri(key)}: {TRUNCATED} (got {done} of {len(buffer)} from byte {start})")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._create(key, lambda file: shutil.copyfileobj(io.BytesIO(data), file, COPY_BYTES))

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        with path.open("rb") as source:
            return self._create(key, lambda file: shutil.copyfileobj(source, file, COPY_BYTES))

    def put_blocks_if_absent(self, key: str, blocks: Iterable[Block], *, staging: Path) -> bool:  # noqa: ARG002
        return self._create(key, lambda file: file.writelines(blocks))

    def link_if_absent(self, key: str, existing: str) -> bool:
        source, final = self.local_path(existing), self.local_path(key)
        with clear_errors(str(final), OSError, writing=True):
            make_folders(final.parent)
            try:
                os.link(source, final)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV):
                    raise
                return self.put_file_if_absent(key, source)
            fsync_folder(final.parent)
        return True

    def _create(self, key: str, write: Callable[[IO[bytes]], None]) -> bool:
        """Write to a temporary name, then link(2): unlike rename it never replaces, and it shows whole files only."""
        final = self.local_path(key)
        temp = final.with_name(f"{TEMP_PREFIX}{os.urandom(16).hex()}")
        with clear_errors(str(final), OSError, writing=True):
            if final.is_dir():
                raise FileExistsError(errno.EEXIST, "is a folder")
            make_folders(final.parent)
            created = False
            if not final.exists():
                try:
                    with temp.open("xb") as file:
                        write(file)
                        file.flush()
                        os.fsync(file.fileno())
                    with suppress(FileExistsError):
                        os.link(temp, final)
                        created = True
                finally:
                    temp.unlink(missing_ok=True)
            # also when another writer was first: we may build on its object, and it may have crashed before its fsync
            fsync_folder(final.parent)
        return created

    def list(self, prefix: str) -> Listing:
        return [(entry.key, entry.num_bytes) for entry in self.list_entries(prefix)]

    def list_entries(self, prefix: str) -> Entries:
        return sorted(entry for entry in self._walk(prefix) if not _is_temporary(entry))

    def incomplete_uploads(self, *, older_than_s: float, delete: bool) -> Entries:
        before = time.time() - older_than_s
        old = sorted(entry for entry in self._walk("") if _is_temporary(entry) and entry.modified_at < before)
        for entry in old if delete else []:
            with clear_errors(entry.key, OSError):
                Path(self.root, entry.key).unlink(missing_ok=True)
        return old

    def _walk(self, prefix: str) -> Entries:
        found = []
        with clear_errors(self._folder(prefix), OSError):
            for folder, _, names in os.walk(self._folder(prefix), onerror=_unless_missing, followlinks=True):
                for name in names:
                    path = os.path.join(folder, name)
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        status = os.stat(path)
                        found.append(Entry(os.path.relpath(path, self.root), status.st_size, status.st_mtime))
        return found

    def list_dirs(self, prefix: str) -> Names:
        with clear_errors(self._folder(prefix), OSError):
            return sorted(next(os.walk(self._folder(prefix), onerror=_unless_missing), ("", [], []))[1])

    def _folder(self, prefix: str) -> str:
        return self.uri(prefix.removesuffix("/")) if prefix else self.root

    def delete(self, key: str) -> None:
        with clear_errors(self.uri(key), OSError):
            self.local_path(key).unlink(missing_ok=True)

    def fetch(self, key: str, path: Path) -> None:
        with clear_errors(self.uri(key), OSError, note=f" -> {path}"), atomic_write(path) as temp:
            shutil.copyfile(self.local_path(key), temp)

    def check_writable(self) -> None:
        put_and_delete_test_object(self)

    def free_bytes(self) -> int | None:
        with clear_errors(self.root, OSError):
            folder = Path(self.root)
            while not folder.exists():
                folder = folder.parent
            return shutil.disk_usage(folder).free


def check_key(key: str) -> str:
    """Return the key if it is a name inside the root. Raises ValueError if not."""
    bad = [part for part in key.split("/") if part in ("", ".", "..") or part.startswith(TEMP_PREFIX)]
    if bad or "\\" in key or "\0" in key:
        raise ValueError(f"key {key!r} is not a relative name such as a/b.json: no '..', empty part, backslash or NUL")
    return key


def _is_temporary(entry: Entry) -> bool:
    return entry.key.rpartition("/")[2].startswith(TEMP_PREFIX)


def byte_view(start: int, buffer: memoryview) -> memoryview:
    """Return a writable buffer as bytes. Raises ValueError: it is read-only, or `start` is negative."""
    if start < 0 or buffer.readonly:
        raise ValueError(f"needed a start of 0 or more and a writable buffer, got {start} and {buffer!r}")
    return buffer.cast("B")  # a view of float32, say, counts and slices in items


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def put_and_delete_test_object(store: Store) -> None:
    """Put and delete a small object. Raises StoreError if that fails."""
    key = f"probe-{os.urandom(16).hex()}"
    store.put_if_absent(key, b"may this user write here?")
    store.delete(key)
