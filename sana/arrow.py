"""Arrow tables: built, counted, compared, written as Parquet and read back."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sana.errors import SanaError


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Build a table of the schema's columns from dictionaries that may have more."""
    names = schema.names
    return pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], schema=schema)


def to_parquet(table: pa.Table, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise a table as Parquet, with extra key-value metadata in its schema."""
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read back what `to_parquet` wrote: all columns, or those named.

    Raises:
        SanaError: the bytes cannot be decoded.
    """
    try:
        names = None if columns is None else list(columns)
        return pq.read_table(pa.BufferReader(data), columns=names, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError, though the bytes are in memory
        raise SanaError(f"a table of {len(data)} bytes is damaged: {' '.join(str(error).split())}") from error


def anti_join(wanted: pa.Table, known: pa.Table, column: str) -> pa.Table:
    """Return the rows of `wanted` whose value of `column` is not in `known`, one row a value, sorted by that column."""
    new = wanted.filter(pc.invert(pc.is_in(wanted.column(column), value_set=known.column(column)))).sort_by(column)
    return new.take(pa.array(run_starts(new.column(column))))


def run_starts(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the index at which each run of equal values begins: int64 [runs]."""
    codes = values.dictionary_encode().combine_chunks().indices.to_numpy()
    return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]][: len(codes)])


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Count how often each value occurs in a column, without a Python object per row."""
    counted = pc.value_counts(column)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
