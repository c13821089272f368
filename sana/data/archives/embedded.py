"""Parquet files whose rows hold whole videos: what `datasets` writes for a column of videos, or plain bytes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sana.data.archives.members import Digester, Member, clean_name, not_an_archive, of_archive
from sana.data.archives.packed import DamagedError
from sana.data.sources.listing import is_video

MEMBER_COLUMN = "__member"  # of the rows that are kept: the number of the row's video among the members, or -1
NAME_COLUMN = "file_name"  # of the rows that are kept: the written path of a row whose video is not in the file

_KNOWN = ("video", "mp4", "webm", "mov", "avi", "mkv", "video_bytes", "clip", "bytes", "content", "data")
_PATHS = ("file_name", "path", "video_path", "__key__")
_COLUMNS = b"columns of videos"  # metadata of the rows that are kept: the one that is read, then the others
_MAGIC = ((4, b"ftyp", ".mp4"), (0, b"\x1a\x45\xdf\xa3", ".mkv"), (8, b"AVI ", ".avi"), (0, b"GIF8", ".gif"))
_BUFFER_BYTES = 2**20  # a column is read page by page, not a row group at once
_LARGE_GROUP_BYTES = 256 * 2**20

_one_large_group = threading.Lock()

RowSink = Callable[[pa.Table], None]


def video_column(schema: pa.Schema, wanted: str | None) -> str | None:
    """Return the column that holds videos: the one that is wanted, that `datasets` declares, or by name; else None."""
    if wanted:
        return wanted if any(field.name == wanted and _holds_bytes(field.type) for field in schema) else None
    return next(iter(_video_columns(schema)), None)


def _video_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that `datasets` declares as Video, or if there is none those with a known name."""
    able = [field.name for field in schema if _holds_bytes(field.type)]
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        declared = [name for name in able if features.get(name, {}).get("_type") == "Video"]
    except (ValueError, KeyError, TypeError, AttributeError):
        declared = []
    return declared or [name for name in _KNOWN if name in able]


def columns_note(name: str, rows: pa.Table) -> str:
    """Say that a file, called `name`, has columns of videos that are not read; "" if it has none."""
    column, *others = (rows.schema.metadata or {}).get(_COLUMNS, b"").decode().split("\n")
    are = "are" if len(others) > 1 else "is"
    one = f"{name}: of its videos the column {column} is read, {', '.join(others)} {are} not"
    return f"{one}; captions.video_column names another" if others else ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column may hold captions or what belongs to them: text, numbers, and lists of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return not (pa.types.is_nested(kind) or _holds_bytes(kind) or pa.types.is_fixed_size_binary(kind))


def scan_rows(
    file: IO[bytes], name: str, wanted: str | None, digester: Digester, method: str, keep: RowSink
) -> Iterator[Member]:
    """Yield the videos of a Parquet file, called `name`, and give all other columns to `keep`, row by row as they were.

    Where no column holds videos, only that is yielded. Rows of one name and content are one video; a name that
    comes again with another content, and a missing one, are replaced by `<stem of the file>/<row>`.
    """
    known: dict[str, tuple[int, str]] = {}
    count = at = 0
    try:
        with _opened(file) as table:
            schema = table.schema_arrow
            column = video_column(schema, wanted)
            if column is None:
                yield not_an_archive(f"no column of it holds videos: {', '.join(schema.names)}")
                return
            others = [] if wanted else [other for other in _video_columns(schema) if other != column]
            plain = [field.name for field in schema if _is_plain(field.type)]
            groups = range(table.num_row_groups)
            for batch in chain.from_iterable(_row_by_row(table, group, [column, *plain]) for group in groups):
                data, written = _cell(batch, column)
                number, outside = -1, written
                if data is not None:
                    outside = None
                    digest = _digest(data, digester, method)
                    member = _named(batch, data, written, f"{PurePosixPath(name).stem}/{at:06d}", digest, at, known)
                    number = known[member.name][0] if member.name in known else count
                    if number == count:
                        if not member.trouble:
                            known[member.name] = (count, digest)
                        count += 1
                        yield member
                row = _row(batch, plain, column, number, outside)
                keep(row.replace_schema_metadata({_COLUMNS: "\n".join([column, *others])}))
                at += 1
    except (pa.ArrowException, OSError) as error:
        why = "it is no Parquet file" if not at else f"it is cut off or damaged after row {at}"
        yield of_archive(f"{why}: {' '.join(str(error).split())[:200]}")


def _row_by_row(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group. A page of it is in memory, and may be all of it: one large one at a time."""
    is_large = table.metadata.row_group(group).total_byte_size > _LARGE_GROUP_BYTES
    with _one_large_group if is_large else nullcontext():
        yield from table.iter_batches(1, columns=columns, row_groups=[group])


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[pq.ParquetFile]:
    options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False, "page_checksum_verification": True}
    with pq.ParquetFile(file, **options) as table:
        yield table


def _cell(batch: pa.RecordBatch, column: str) -> tuple[memoryview | None, str | None]:
    """Return (bytes, path) of the only row's video; either may be missing."""
    cell = batch.column(column)
    path = None
    if pa.types.is_struct(cell.type):
        if not cell[0].is_valid:
            return None, None
        if cell.type.get_field_index("path") >= 0:
            written = cell.field("path")[0].as_py()
            path = written if isinstance(written, str) and written else None
        cell = cell.field("bytes")
    return (memoryview(cell[0].as_buffer()) if cell[0].is_valid else None), path


def _digest(data: memoryview, digester: Digester, method: str) -> str:
    hasher = digester()
    hasher.update(data)
    return f"{method}:{hasher.hexdigest()}"


def _named(
    batch: pa.RecordBatch,
    data: memoryview,
    written: str | None,
    fallback: str,
    digest: str,
    row: int,
    known: dict[str, tuple[int, str]],
) -> Member:
    """Return the member of a row, under the name that it gets."""
    for name in _PATHS if written is None else ():
        if name in batch.schema.names:
            value = batch.column(name)[0].as_py()
            written = value if isinstance(value, str) and value else written
            if written:
                break
    name, trouble = clean_name(written) if written else (fallback, "")
    if written and trouble and "absolute" in trouble:  # only a label here: where its writer had the file
        name, trouble = clean_name(PurePosixPath(written.replace("\\", "/")).name)
    if trouble and is_video(name):
        return Member(name, row, trouble=trouble)
    if not is_video(name):
        name += _suffix(data)
    if trouble or known.get(name, (0, digest))[1] != digest:
        name = f"{fallback}{_suffix(data)}"
    return Member(name, row, 0, len(data), digest=digest)


def _suffix(data: memoryview) -> str:
    head = bytes(data[:16])
    return next((suffix for at, magic, suffix in _MAGIC if head[at : at + len(magic)] == magic), ".mp4")


def _row(batch: pa.RecordBatch, plain: list[str], column: str, number: int, outside: str | None) -> pa.Table:
    columns: dict[str, Any] = {name: batch.column(name) for name in plain if name not in (NAME_COLUMN, column)}
    columns[MEMBER_COLUMN] = pa.array([number], pa.int64())
    columns[NAME_COLUMN] = pa.array([outside], pa.large_string())
    columns[column] = columns[NAME_COLUMN]
    return pa.table(columns)


@contextmanager
def open_rows(file: IO[bytes], wanted: str | None) -> Iterator["EmbeddedRows"]:
    """Open a Parquet file whose rows hold videos.

    Raises:
        DamagedError: it is no such file (any more), or it cannot be read.
    """
    try:
        with _opened(file) as table:
            column = video_column(table.schema_arrow, wanted)
            if column is None:
                raise DamagedError("no column of it holds videos")
            yield EmbeddedRows(table, column)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"the Parquet file is damaged: {' '.join(str(error).split())[:200]}") from error


class EmbeddedRows:
    """The rows of an open Parquet file."""

    def __init__(self, table: pq.ParquetFile, column: str) -> None:
        self._table, self._column = table, column

    def group_of(self, row: int) -> tuple[int, range]:
        """Return the row group that holds a row, and all its rows.

        Raises:
            DamagedError: the file has no such row.
        """
        first = 0
        for group in range(self._table.num_row_groups):
            rows = range(first, first + self._table.metadata.row_group(group).num_rows)
            if row in rows:
                return group, rows
            first = rows.stop
        raise DamagedError(f"the Parquet file has no row {row}")

    def videos(self, group: int, rows: range) -> Iterator[tuple[int, memoryview]]:
        """Yield (row, bytes) of the videos of a row group with these rows."""
        for at, batch in zip(rows, _row_by_row(self._table, group, [self._column]), strict=True):
            data, _ = _cell(batch, self._column)
            if data is not None:
                yield at, data
