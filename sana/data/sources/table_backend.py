"""The backend of a data set that is a table: its videos are beside it, or anywhere in S3."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import resolve_video_path
from sana.data.captions.metadata_readers import read_rows
from sana.data.captions.name_matching import spellings
from sana.data.sources.backends import LocalBackend, S3Backend
from sana.data.sources.listing import SourceFile
from sana.data.sources.mask_files import read_named_masks
from sana.errors import ConfigError, SanaError


class TableBackend:
    """A table of videos and captions. Paths are relative to its folder, or `s3://bucket/key`; no other file is opened.

    `beside` is the folder of the table `name`; `bucket` opens an S3 bucket by its name.
    """

    revision = ""

    def __init__(
        self, name: str, beside: LocalBackend | S3Backend, bucket: Callable[[str], S3Backend], config: DatasetConfig
    ) -> None:
        self.name = name
        self.base = beside.base
        self._beside = beside
        self._bucket = bucket
        self._config = config
        self._lock = threading.Lock()
        self._buckets: dict[str, S3Backend] = {}

    def files(self) -> Iterator[SourceFile]:
        """Yield the table, and the videos and masks that it names and that exist."""
        table = next(self._beside.find([self.name]), None)
        if table is None or table.trouble:
            raise ConfigError(f"source {self.base}/{self.name} is {table.trouble if table else 'not there'}")
        yield table
        keys_by_bucket: dict[str, set[str]] = {"": set()}  # "": beside the table
        for path in self._named_paths(table):
            bucket, _, key = path.removeprefix("s3://").partition("/") if path.startswith("s3://") else ("", "", path)
            keys_by_bucket.setdefault(bucket, set()).add(key)
        yield from _find(self._beside, keys_by_bucket.pop("") - {self.name})
        for bucket, keys in sorted(keys_by_bucket.items()):
            for file in _find(self._open_bucket(bucket), keys):
                yield SourceFile(f"s3://{bucket}/{file.path}", file.num_bytes, file.identity, file.trouble)

    def _named_paths(self, table: SourceFile) -> Iterator[str]:
        try:
            with self._beside.open(table.path, digest=self._beside.digest(table)) as local:
                rows, masks = read_rows(local, self.name, self._config.captions), None
                if self._config.masks is not None and self._config.masks.column is not None:
                    column, tables = self._config.masks.column, [(self.name, local)]
                    masks = read_named_masks(
                        tables, self._config.captions, column, base=self.base, is_source=True
                    ).masks
        except OSError as error:
            raise SanaError(f"source {self.base}/{self.name} cannot be read: {error}") from error
        for batch in rows.select(["video"]).to_batches(65536):
            for video in batch.column(0).to_pylist():
                path, _ = resolve_video_path(video, folder="", base=self.base, is_source=True)
                if path:
                    yield path
        for mask in masks if masks is not None else ():
            if path := resolve_video_path(mask.as_py(), folder="", base=self.base, is_source=True)[0]:
                yield path

    def digest(self, file: SourceFile) -> str:
        backend, path = self._backend_of(file.path)
        return backend.digest(replace(file, path=path))

    def read(self, file: SourceFile) -> bytes:
        backend, path = self._backend_of(file.path)
        return backend.read(replace(file, path=path))

    def open(self, path: str, *, digest: str) -> AbstractContextManager[Path]:
        backend, path = self._backend_of(path)
        return backend.open(path, digest=digest)

    def _backend_of(self, path: str) -> tuple[LocalBackend | S3Backend, str]:
        if not path.startswith("s3://"):
            return self._beside, path
        bucket, _, key = path.removeprefix("s3://").partition("/")
        return self._open_bucket(bucket), key

    def _open_bucket(self, bucket: str) -> S3Backend:
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = self._bucket(bucket)
            return self._buckets[bucket]


def _find(backend: LocalBackend | S3Backend, keys: set[str]) -> Iterator[SourceFile]:
    """Yield the files that exist and, of those that do not, the ones that exist in another spelling."""
    found = set()
    for file in backend.find(sorted(keys)):
        found.add(file.path)
        yield file
    others = {
        path
        for key in keys - found
        for other in spellings(key)
        for path in resolve_video_path(other, folder="", base="", is_source=False)[:1]
    }
    yield from backend.find(sorted(others - found - {""}))
