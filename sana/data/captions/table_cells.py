"""Cells of a table's columns as texts, lists of texts and numbers, whatever type the table has them in."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.errors import ConfigError

TEXTS = pa.large_list(pa.large_string())


def nothing(num_rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(num_rows, pa.large_string())])


def _column(table: pa.Table, column: str) -> pa.ChunkedArray:
    found = table.column(column)
    return found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _wrong(table: str, column: str, kind: pa.DataType, needed: str) -> ConfigError:
    return ConfigError(f"{table}: column {column!r} holds {kind}; {needed} is needed")


def strings(table: pa.Table, column: str | None, name: str) -> pa.ChunkedArray:
    """Return one text per row, null where there is none."""
    if column is None:
        return nothing(table.num_rows)
    found = _column(table, column)
    if found.type == TEXTS:  # from JSON lines
        if pc.max(pc.list_value_length(found)).as_py() not in (None, 0, 1):
            raise _wrong(name, column, found.type, "one text a row")
        return pc.list_element(_padded(found), 0)
    if pa.types.is_struct(found.type) and "path" in found.type.names:  # as `datasets` writes a Video
        found = pc.struct_field(found, "path")
    if not (_is_text(found.type) or pa.types.is_integer(found.type) or pa.types.is_null(found.type)):
        raise _wrong(name, column, found.type, "text")
    return found.cast(pa.large_string())


def _padded(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn empty lists into null, so that each other one has a first element."""
    return pc.if_else(pc.equal(pc.list_value_length(lists), 0), pa.scalar(None, lists.type), lists)


def lists_of_texts(table: pa.Table, column: str | None, name: str) -> pa.ChunkedArray:
    """Return the captions of a row as a list, whether the cell is a text, a list or empty."""
    if column is None:
        return pa.chunked_array([pa.nulls(table.num_rows, TEXTS)])
    found = _column(table, column)
    if _is_list(found.type):
        if not (_is_text(found.type.value_type) or pa.types.is_null(found.type.value_type)):
            raise _wrong(name, column, found.type, "text, or lists of text,")
        return found.cast(TEXTS)
    if pa.types.is_null(found.type) or (pa.types.is_floating(found.type) and not _numbers(found)):
        return pa.chunked_array([pa.nulls(table.num_rows, TEXTS)])  # pandas writes a column of missing cells as NaN
    if not _is_text(found.type):
        raise _wrong(name, column, found.type, "text, or lists of text,")
    chunks = found.cast(pa.large_string()).chunks
    return pa.chunked_array(
        [pa.LargeListArray.from_arrays(pa.array(np.arange(len(chunk) + 1)), chunk) for chunk in chunks], TEXTS
    )


def _numbers(column: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.is_finite(column)).as_py() or 0)


def _floats(cell: Sequence[object] | None, null_words: Sequence[str]) -> list[float]:
    return [float(str(one)) for one in cell or () if one is not None and str(one).strip().lower() not in null_words]


def without_words(texts: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    """Replace texts that are one of the words, given in lower case, by null."""
    if not words:
        return texts
    is_word = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), pa.array(words, pa.large_string()))
    return pc.if_else(is_word, pa.scalar(None, pa.large_string()), texts)


def scores_of(table: pa.Table, column: str | None, name: str, null_words: Sequence[str]) -> pa.ChunkedArray:
    """Return one number per row, null where there is none; of a list its mean, as in the official data set."""
    if column is None:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.float64())])
    found = _column(table, column)
    try:
        if _is_list(found.type):
            numbers = [_floats(cell, null_words) for cell in found.to_pylist()]
            return pa.chunked_array([pa.array([sum(some) / len(some) if some else None for some in numbers])])
        if _is_text(found.type):
            found = without_words(pc.utf8_trim_whitespace(found.cast(pa.large_string())), null_words)
            found = pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.large_string()), found)
        scores = found.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, TypeError) as error:
        raise ConfigError(f"{name}: column {column!r} is the motion score, and holds no number: {error}") from error
    if pc.any(pc.is_inf(scores)).as_py():
        raise ConfigError(f"{name}: column {column!r} is the motion score, and holds an infinity")
    return scores
