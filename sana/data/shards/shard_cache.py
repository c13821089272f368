"""Reading byte ranges of shards: from open files of a local root, or from S3 with one request per tensor.

S3 may have a cache of whole shards on the local disk, shared by the ranks and processes of a machine. It stays within
its budget: a shard that has no room is read by range.
"""

import os
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

from sana.atomic_io import read_at
from sana.config.training.resources import TrainResources
from sana.data.sources.file_cache import FileCache
from sana.store import Store
from sana.store_errors import TRUNCATED, StoreError, clear_errors

MAX_OPEN = 256  # files; a process may usually open 1,024
# Shards are read in random order: evicting one in use for another in use would fetch both again and again.
KEEP_S = 3600.0
SUFFIX = ".safetensors"


class ShardFiles:
    """Reads ranges of shards. Thread-safe.

    `cache_bytes` is the budget of the cache in `cache_folder`; with 0, or a local root, there is no cache. A cached
    shard that was read in the last `keep_s` seconds is not evicted.
    """

    def __init__(
        self, store: Store, *, cache_folder: Path | None = None, cache_bytes: int = 0, keep_s: float = KEEP_S
    ) -> None:
        self.store = store
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}  # of remote shards, once looked up
        self._cache: FileCache | None = None
        if not store.is_local and cache_folder is not None and cache_bytes > 0:
            self._cache = FileCache(cache_folder, max_bytes=cache_bytes, keep_s=keep_s)

    @classmethod
    def configured(cls, store: Store, resources: TrainResources, *, work_dir: Path) -> "ShardFiles":
        """Read as `train.resources` says, with the cache in `work_dir/cache/shards`."""
        budget = int(resources.shard_cache_gib * 2**30)
        return cls(store, cache_folder=work_dir / "cache" / "shards", cache_bytes=budget)

    def read_into(self, shard: str, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a shard from `start` on.

        Raises:
            FileNotFoundError: there is no such shard.
            StoreError: storage refuses, or the shard ends too early.
        """
        if self.store.is_local:
            file = self._opened(shard)  # this reference keeps it open until it is read
            try:  # a `with` per read would double the time of this method
                done = read_at(file.descriptor, start, buffer)
            except OSError:
                with clear_errors(file.path, OSError):
                    raise
            if done < len(buffer):
                raise StoreError(f"{file.path}: {TRUNCATED} (got {done} of {len(buffer)} from byte {start})")
        elif self._cache is None or not self._from_cache(self._cache, shard, start, buffer):
            self.store.read_into(shard, start, buffer)

    def read_again_into(self, shard: str, start: int, buffer: memoryview) -> None:
        """The same without the cache, which drops its copy of the shard: the bytes read before were damaged."""
        if self._cache is not None:
            self._cache.discard(self.store.uri(shard), SUFFIX)
        self.store.read_into(shard, start, buffer)

    def _opened(self, shard: str) -> "_OpenFile":
        with self._lock:
            file = self._open.pop(shard, None) or _OpenFile(self.store.uri(shard))
            self._open[shard] = file
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return file

    def _from_cache(self, cache: FileCache, shard: str, start: int, buffer: memoryview) -> bool:
        """Fill the buffer from the cached shard; False when it is not cached and there is no room for it.

        No file is kept open between reads: an evicted one would still take disk space.
        """
        uri = self.store.uri(shard)
        with cache.open_if_room(
            uri, SUFFIX, size=partial(self._size, shard), fetch=partial(self._fetch, shard)
        ) as path:
            if path is None:
                return False
            with path.open("rb", buffering=0) as file:
                return read_at(file.fileno(), start, buffer) == len(buffer)

    def _size(self, shard: str) -> int:
        if shard not in self._sizes:
            self._sizes[shard] = self.store.size(shard)
        return self._sizes[shard]

    def _fetch(self, shard: str, path: Path) -> None:
        self.store.fetch(shard, path)
        if path.stat().st_size != self._size(shard):
            raise StoreError(f"{self.store.uri(shard)}: {TRUNCATED} (got {path.stat().st_size} of {self._size(shard)})")


class _OpenFile:
    """A file that closes with its last reference, from the open files or from a thread that reads it."""

    def __init__(self, path: str) -> None:
        self.path = path
        with clear_errors(path, OSError):
            self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # else opening failed
            os.close(self.descriptor)
