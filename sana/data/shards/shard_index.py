"""The shard index: the locations of many tensors as numpy columns, about 60 bytes per row."""

import binascii
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import one_chunk
from sana.data.schemas import LOCATION
from sana.data.shards.shard import Location
from sana.errors import SanaError

DIGEST_BYTES = 16  # xxh3-128
_CHUNK_ROWS = 2**20  # whose digests are decoded at once


@dataclass(frozen=True)
class ShardIndex:
    """Locations, one row per tensor; all shapes have the same number of dimensions."""

    shards: tuple[str, ...]
    shard_codes: np.ndarray  # int32 [rows], index into shards
    offsets: np.ndarray  # int64 [rows], bytes from the shard's start
    num_bytes: np.ndarray  # int64 [rows]
    digests: np.ndarray  # uint8 [rows, 16], xxh3-128
    dtypes: tuple[str, ...]
    dtype_codes: np.ndarray  # int8 [rows], index into dtypes
    shapes: np.ndarray  # int32 [rows, dimensions]

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Convert the columns LOCATION of a table.

        Raises:
            SanaError: shapes differ in their number of dimensions, or a digest is not one.
        """
        table = table.select([field.name for field in LOCATION]).combine_chunks()
        shard, dtype = (one_chunk(table[name]).dictionary_encode() for name in ("shard", "dtype"))
        dimensions = pc.unique(pc.list_value_length(table["shape"])).to_pylist() or [0]
        if len(dimensions) > 1:
            raise SanaError(
                f"an index holds tensors of {dimensions} dimensions; needed are equal numbers: encode again"
            )
        return cls(
            shards=tuple(shard.dictionary.to_pylist()),
            shard_codes=shard.indices.to_numpy().astype(np.int32),
            offsets=table["offset"].to_numpy(),
            num_bytes=table["num_bytes"].to_numpy(),
            digests=_digests(one_chunk(table["digest"])),
            dtypes=tuple(dtype.dictionary.to_pylist()),
            dtype_codes=dtype.indices.to_numpy().astype(np.int8),
            shapes=pc.list_flatten(table["shape"]).to_numpy().astype(np.int32).reshape(table.num_rows, dimensions[0]),
        )

    def shard(self, row: int) -> str:
        return str(self.shards[self.shard_codes[row]])

    def dtype(self, row: int) -> str:
        return str(self.dtypes[self.dtype_codes[row]])

    def __getitem__(self, row: int) -> Location:
        return Location(
            self.shard(row),
            int(self.offsets[row]),
            int(self.num_bytes[row]),
            self.digests[row].tobytes().hex(),
            self.dtype(row),
            tuple(self.shapes[row].tolist()),
        )


def _digests(column: pa.Array) -> np.ndarray:
    lengths = pc.unique(pc.binary_length(column)).to_pylist()
    if lengths not in ([], [2 * DIGEST_BYTES]):
        raise SanaError(f"an index holds digests of {lengths} digits, needed are {2 * DIGEST_BYTES}: encode again")
    digests = np.empty((len(column), DIGEST_BYTES), dtype=np.uint8)
    for start in range(0, len(column), _CHUNK_ROWS):
        chunk = column[start : start + _CHUNK_ROWS]
        raw = binascii.unhexlify("".join(chunk.to_pylist()))
        digests[start : start + len(chunk)] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    return digests
