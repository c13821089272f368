"""Tables of artifacts by the columns that are needed and no others, so that ten million rows fit."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sana.artifact import Artifact
from sana.errors import SanaError, repair_hint
from sana.store import Store

BATCH_ROWS = 1 << 17


class _Object(io.RawIOBase):
    """A stored object as a file: Parquet asks for its footer and for the columns it needs."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._size, self._at = store.size(key), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        if length > 0:
            self._store.read_into(self._key, self._at, memoryview(buffer)[:length])
            self._at += length
        return max(length, 0)


def columns(
    store: Store, artifact: Artifact, name: str, wanted: Sequence[str], *, dictionary: Sequence[str] = ()
) -> pa.Table:
    """Read some columns of a table; those in `dictionary` (few distinct texts) take 4 bytes a row.

    Raises:
        SanaError: the table is gone or damaged.
    """
    try:
        return _open(store, artifact, name, dictionary).read(columns=list(wanted))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(store, artifact, name, error) from error


def batches(store: Store, artifact: Artifact, name: str, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a table piece by piece, for texts that are better not held all at once.

    Raises:
        SanaError: the table is gone or damaged.
    """
    try:
        yield from _open(store, artifact, name, ()).iter_batches(BATCH_ROWS, columns=list(wanted))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(store, artifact, name, error) from error


def coded(column: pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.int64]]:
    """Return (sorted distinct texts, the number of each row's text among them)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    names = array.dictionary.to_pylist()
    distinct = sorted(set(names))
    place = {name: number for number, name in enumerate(distinct)}
    renumbered = np.array([place[name] for name in names], np.int64)
    return distinct, renumbered[array.indices.to_numpy(zero_copy_only=False)]


def find_rows(
    store: Store, artifact: Artifact, name: str, wanted: Sequence[str], *, key: str, among: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows whose `key` is among some few texts, sorted by it."""
    some = pa.array(among, pa.string())
    rows: list[dict[str, Any]] = []
    for batch in batches(store, artifact, name, [*wanted, key]):
        rows += batch.filter(pc.is_in(batch.column(key), some)).to_pylist()
    return sorted(rows, key=lambda row: str(row[key]))


def _open(store: Store, artifact: Artifact, name: str, dictionary: Sequence[str]) -> pq.ParquetFile:
    key = artifact.files[name].key
    path = store.local_path(key)
    source = path if path is not None else pa.PythonFile(_Object(store, key), mode="r")
    return pq.ParquetFile(source, read_dictionary=list(dictionary), pre_buffer=True, page_checksum_verification=True)


def _unreadable(store: Store, artifact: Artifact, name: str, error: Exception) -> SanaError:
    where = store.uri(artifact.files[name].key)
    return SanaError(f"{where} cannot be read ({error}); {repair_hint(deep=True)}")
