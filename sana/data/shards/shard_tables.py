"""Shards by the tables that refer to them: list them, and check header, size and samples. Without torch.

A table is anything with the LOCATION columns: a part of a pool, its compacted form, or the index of an artifact.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from sana.data.schemas import HEADER_DTYPES, LOCATION
from sana.errors import SanaError
from sana.store import Store
from sana.store_errors import StoreError

_FIRST_BYTES = 2**16  # enough for the header of a shard of a few hundred samples
Rows = Sequence[Mapping[str, Any]]
Read = Callable[[int, int], bytes]  # (first byte, length) -> bytes of one shard


def shard_keys(data: bytes) -> list[str]:
    """Return the shards that the rows of a table refer to, each once, sorted. Rows of rejected clips refer to none.

    Raises:
        SanaError: the table is damaged.
    """
    if not has_shards(data):
        return []
    column = _read(data, ["shard"]).column("shard")
    return sorted(key for key in pc.unique(column).to_pylist() if key)


def rows_by_shard(data: bytes) -> Iterator[tuple[str, Rows]]:
    """Yield (shard, its rows by offset) of a table, whose memory is about 100 bytes a row; none without LOCATION.

    Raises:
        SanaError: the table is damaged.
    """
    if not has_shards(data):
        _read(data, None)
        return
    table = _read(data, [field.name for field in LOCATION], read_dictionary=["shard"]).unify_dictionaries()
    if not table.num_rows:
        return
    table = table.combine_chunks()
    shards = table.column("shard").chunk(0)
    codes, offsets = np.asarray(shards.indices), table.column("offset").to_numpy()
    order = np.lexsort((offsets, codes))
    edges = np.flatnonzero(np.diff(codes[order], prepend=-1, append=-1))
    for start, end in pairwise(edges):
        key = shards.dictionary[int(codes[order[start]])].as_py()
        if key:
            yield key, table.take(pa.array(order[start:end])).to_pylist()


def has_shards(data: bytes) -> bool:
    """Whether a table has the columns LOCATION.

    Raises:
        SanaError: the table is damaged.
    """
    try:
        return "shard" in pq.read_schema(pa.BufferReader(data)).names
    except (pa.ArrowException, OSError) as error:
        raise SanaError(f"the table is damaged: {' '.join(str(error).split())}") from error


def _read(data: bytes, columns: list[str] | None, **options: Any) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data), columns=columns, page_checksum_verification=True, **options)
    except (pa.ArrowException, OSError) as error:
        raise SanaError(f"the table is damaged: {' '.join(str(error).split())}") from error


def find_fault(read: Read, num_bytes: int, rows: Rows, *, deep: bool) -> str:
    """Return the fault of a shard of `num_bytes`, or "". Checks the header and, with `deep`, every sample's digest."""
    first = read(0, min(num_bytes, _FIRST_BYTES))
    length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else num_bytes
    base = 8 + length
    if base > num_bytes:
        return f"its header says {length} bytes, the whole file has {num_bytes}"
    try:
        header = json.loads((first if base <= len(first) else read(0, base))[8:base])
        header.pop("__metadata__", None)
        tensors = {entry["data_offsets"][0]: entry for entry in header.values()}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        return f"its header is no safetensors header ({type(error).__name__})"
    if base + end != num_bytes:
        return f"its header describes {base + end} bytes, it has {num_bytes}"
    for row in rows:
        begin = row["offset"] - base
        expected = [HEADER_DTYPES.get(row["dtype"]), list(row["shape"]), [begin, begin + row["num_bytes"]]]
        entry = tensors.get(begin, {})
        if expected != [entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")]:
            return f"at byte {row['offset']} its header says {entry or 'nothing'}, the row {expected}"
        if deep and xxhash.xxh3_128_hexdigest(read(row["offset"], row["num_bytes"])) != row["digest"]:
            return f"the sample of {row['num_bytes']} bytes at byte {row['offset']} has not the digest of its row"
    return ""


def require_shards(store: Store, table: pa.Table) -> None:
    """Check, just before rows are committed, that the shards they point at are there and long enough.

    Raises:
        StoreError: one is not, because it was deleted while the part was being made: the part must be made again.
    """
    ends: dict[str, int] = {}
    for row in table.select(["shard", "offset", "num_bytes"]).to_pylist():
        ends[row["shard"]] = max(ends.get(row["shard"], 0), row["offset"] + row["num_bytes"])
    for key, end in ends.items():
        if key and (not store.exists(key) or store.size(key) < end):
            raise StoreError(
                f"{store.uri(key)} was deleted before the part that refers to it was committed (by `sana gc` with a "
                "grace shorter than a part takes?): run again"
            )
