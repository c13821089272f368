"""Tables of clips that stages hand to each other: keys, reading, digests and counts.

Clips in = clips out + clips rejected.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import read_parquet, value_counts
from sana.artifact import Artifact
from sana.counts import Counts, DatasetCounts
from sana.data.schemas import ADDED_COLUMNS, SAMPLE_KEY_COLUMNS
from sana.data.sources.listing import is_picture_path
from sana.errors import SanaError, repair_hint
from sana.store import Store

_KEY_ROWS = 65_536  # rows whose keys are computed at once
STILL = "still:"  # before the digest of a picture, in probe's pool


def clip_id_of(dataset: str, path: str) -> str:
    """Return 20 hex digits that name a clip: a digest of its data set and its path in it."""
    return hashlib.blake2b(f"{dataset}\0{path}".encode(), digest_size=10).hexdigest()


def sample_key(window: Mapping[str, Any]) -> str:
    """Return the key of a sample: a digest of its video's content and of how it is cut. Another file, another key."""
    text = "\0".join(str(window[name]) for name in SAMPLE_KEY_COLUMNS if name not in ADDED_COLUMNS)
    for name in SAMPLE_KEY_COLUMNS:
        if name in ADDED_COLUMNS and window[name] != ADDED_COLUMNS[name]:
            text += f"\0{name}={window[name]}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sample_keys(windows: pa.Table) -> pa.Array:
    """Return `sample_key` of every row, as strings. Memory beside the result is bounded."""
    keys: list[pa.Array] = []
    for batch in windows.select(list(SAMPLE_KEY_COLUMNS)).to_batches(max_chunksize=_KEY_ROWS):
        frozen = [_as_text(batch.column(name)) for name in SAMPLE_KEY_COLUMNS if name not in ADDED_COLUMNS]
        texts = pc.binary_join_element_wise(*frozen, "\0")
        for name in SAMPLE_KEY_COLUMNS:
            if name in ADDED_COLUMNS:
                added = pc.binary_join_element_wise(f"\0{name}=", _as_text(batch.column(name)), "")
                texts = pc.binary_join_element_wise(texts, pc.if_else(_is_neutral(batch, name), "", added), "")
        names = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts.to_pylist()]
        keys.append(pa.array(names, pa.string()))
    return pa.chunked_array(keys, pa.string()).combine_chunks()


def _is_neutral(table: pa.Table | pa.RecordBatch, name: str) -> Any:
    """Return per row whether an added column has its neutral value."""
    return pc.equal(table.column(name), pa.scalar(ADDED_COLUMNS[name], table.schema.field(name).type))


def _as_text(column: pa.Array) -> pa.Array:
    """Return each value as Python's `str` writes it: Arrow formats floats differently."""
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    encoded = column.dictionary_encode()
    return pa.array([str(value) for value in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def probed_files(clips: pa.Table) -> pa.Table:
    """Return a table CLIPS with the ids that probe's pool has for contents in place of digests.

    A content that is listed as a picture is another thing to probe than under the name of a video, which it is not.
    """
    digests, is_still = clips.column("digest"), is_picture_path(clips.column("path"))
    if not pc.any(is_still).as_py():
        return clips
    ids = pc.if_else(is_still, pc.binary_join_element_wise(STILL, digests, ""), digests)
    return clips.set_column(clips.schema.get_field_index("digest"), "digest", ids)


def read_table(store: Store, artifact: Artifact, name: str) -> pa.Table:
    """Read a table of an artifact.

    Raises:
        SanaError: it is missing or damaged; names it and the command that makes it again.
    """
    key = artifact.files[name].key
    try:
        return read_parquet(store.read(key))
    except (FileNotFoundError, SanaError) as error:
        raise SanaError(f"{store.uri(key)} cannot be read ({error}); {repair_hint(deep=True)}") from error


def content_digest(table: pa.Table, columns: Sequence[str]) -> str:
    """Digest the logical rows over `columns`, sorted by them: independent of row order, chunks and file layout.

    Returns 32 hex digits. Columns are of text, numbers or booleans, or lists of those; rows sort by the others. A
    column of ADDED_COLUMNS that has its neutral value in every row is left out.

    Raises:
        TypeError: a column is of another type.
    """
    columns = [
        name
        for name in columns
        if name not in ADDED_COLUMNS or not pc.all(_is_neutral(table, name), min_count=0).as_py()
    ]
    picked = table.select(columns)
    if not _ascends(picked.column(0)):
        sortable = [name for name in columns if not pa.types.is_list(picked.schema.field(name).type)]
        picked = picked.sort_by([(name, "ascending") for name in sortable]).combine_chunks()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{picked.num_rows}:{','.join(columns)}".encode())
    for name in columns:
        _digest_column(digest, picked.column(name))
    return digest.hexdigest()


def _ascends(column: pa.ChunkedArray) -> bool:
    """Whether values strictly ascend: such rows are sorted, and Arrow cannot sort lists of text beyond 2 GiB."""
    if pa.types.is_list(column.type):
        return False
    return column.num_chunks > 0 and bool(pc.all(pc.less(column[:-1], column[1:]), min_count=0).as_py())


def _digest_column(digest: Any, column: pa.ChunkedArray) -> None:
    if pa.types.is_list(column.type):
        _digest_numbers(digest, pc.list_value_length(column), pa.int64())
        column = pc.list_flatten(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = pc.cast(column, pa.large_binary())
        _digest_numbers(digest, pc.binary_length(encoded), pa.int64())
        for chunk in encoded.chunks:
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, "<i8")[chunk.offset : chunk.offset + len(chunk) + 1] if len(chunk) else [0]
            digest.update(memoryview(data)[ends[0] : ends[-1]] if data else b"")
    elif pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        _digest_numbers(digest, column, pa.int64())
    elif pa.types.is_floating(column.type):
        _digest_numbers(digest, column, pa.float64())
    else:
        raise TypeError(f"no digest is defined for columns of type {column.type}")


def _digest_numbers(digest: Any, column: pa.ChunkedArray, kind: pa.DataType) -> None:
    """Digest numbers as 8 bytes each, from Arrow's buffers: `to_numpy` would import pandas, which slows every plan."""
    for chunk in pc.cast(column, kind).chunks:
        if len(chunk):
            digest.update(memoryview(chunk.buffers()[1])[8 * chunk.offset : 8 * (chunk.offset + len(chunk))])


def count_rejects(num_in: Mapping[str, int], num_out: int, rejects: pa.Table) -> Counts:
    """Return the counts of a stage, from the clips of each data set that came in, the clips kept, and a table REJECTS.

    Raises:
        AssertionError: clips in are not clips out + clips rejected.
    """
    by_dataset = value_counts(rejects.column("dataset"))
    return Counts(
        num_in=sum(num_in.values()),
        num_out=num_out,
        num_rejected=rejects.num_rows,
        reasons=dict(sorted(value_counts(rejects.column("reason")).items())),
        datasets={name: DatasetCounts(num, by_dataset.get(name, 0)) for name, num in sorted(num_in.items())},
        num_samples=None,
        extra={},
    )
