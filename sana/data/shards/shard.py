"""Shards: encoded samples of one kind in immutable safetensors files, read back by byte range.

safetensors itself does not notice a flipped bit, so every tensor carries an xxh3 digest in its index row.
"""

import json
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor

from sana.data.schemas import HEADER_DTYPES
from sana.errors import SanaError, repair_hint
from sana.store import Store

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LENGTH_BYTES = 8  # a shard begins with the length of its header, a number of 8 bytes
ALIGN_BYTES = 64  # tensor data begin on a cache line
_DTYPE_NAMES = {torch_dtype: name for name, torch_dtype in DTYPES.items()}
_FROM_HEADER = {header: name for name, header in HEADER_DTYPES.items()}


class DamagedSampleError(SanaError):
    """A stored tensor does not match its index row."""


@dataclass(frozen=True)
class Location:
    """The location of one stored tensor, and its digest."""

    shard: str
    offset: int
    num_bytes: int
    digest: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Location":
        """Return the location in an index row, its columns LOCATION."""
        return cls(row["shard"], row["offset"], row["num_bytes"], row["digest"], row["dtype"], tuple(row["shape"]))


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the raw little-endian bytes of a tensor of any supported dtype."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def tensor_digest(tensor: Tensor) -> str:
    """Return the xxh3-128 of a tensor's bytes, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(tensor_bytes(tensor))


def pack(tensors: Mapping[str, Tensor], *, shard: str) -> tuple[bytes, dict[str, Location]]:
    """Lay tensors out, in the order given, as one safetensors file that is to be stored at key `shard`.

    Written here and not by `safetensors.torch.save`, which orders by dtype and name: tensors that are read together
    must be adjacent, and offsets must be known. Any safetensors reader opens the result.
    """
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    position = 0
    for name, tensor in tensors.items():
        blob = tensor_bytes(tensor)
        header[name] = {
            "dtype": HEADER_DTYPES[_DTYPE_NAMES[tensor.dtype]],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(blob)],
        }
        blobs.append(blob)
        position += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH_BYTES) % ALIGN_BYTES)
    base = _LENGTH_BYTES + len(text)
    locations = {}
    for (name, tensor), blob in zip(tensors.items(), blobs, strict=True):
        locations[name] = Location(
            shard,
            base + header[name]["data_offsets"][0],
            len(blob),
            xxhash.xxh3_128_hexdigest(blob),
            _DTYPE_NAMES[tensor.dtype],
            tuple(tensor.shape),
        )
    return b"".join([struct.pack("<Q", len(text)), text, *blobs]), locations


def write_shard(store: Store, folder: str, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Location]:
    """Store tensors as one new shard under an attempt-unique name; returns the location of each tensor."""
    key = f"{folder}/{part}-{uuid.uuid4().hex[:12]}.safetensors"
    data, locations = pack(tensors, shard=key)
    store.put_if_absent(key, data)
    return locations


class HeaderEntry(NamedTuple):
    """One tensor of a shard, by the shard's own header."""

    num_bytes: int
    dtype: str  # fp32, fp16, bf16, or the header's name of another
    shape: tuple[int, ...]


def read_header(store: Store, shard: str, *, guess: int = 4096) -> dict[int, HeaderEntry]:
    """Read the header of a shard: {offset of a tensor in the file: its entry}. Costs two small requests.

    `guess` is the expected size of the header, bytes: a longer one costs another request.

    Raises:
        DamagedSampleError: the shard is missing, its header is damaged, or its size is not what the header implies.
    """
    try:
        num_bytes = store.size(shard)
        start = store.read_range(shard, 0, min(num_bytes, guess))
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if length > num_bytes - _LENGTH_BYTES:
            raise DamagedSampleError(f"has {num_bytes} bytes, too few for the header of {length} that it begins with")
        text = start[_LENGTH_BYTES : _LENGTH_BYTES + length]
        text += store.read_range(shard, len(start), _LENGTH_BYTES + length - len(start)) if len(text) < length else b""
    except FileNotFoundError as error:
        raise DamagedSampleError("is gone") from error
    try:
        entries = _entries(json.loads(text), base=_LENGTH_BYTES + length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSampleError(f"has a damaged header ({type(error).__name__})") from error
    end = max((offset + entry.num_bytes for offset, entry in entries.items()), default=_LENGTH_BYTES + length)
    if end != num_bytes:
        raise DamagedSampleError(f"has {num_bytes} bytes where its header needs {end}")
    return entries


def _entries(header: Mapping[str, Any], *, base: int) -> dict[int, HeaderEntry]:
    entries = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            entries[base + int(begin)] = HeaderEntry(
                int(end) - int(begin), _FROM_HEADER.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
            )
    return entries


def read_tensor(store: Store, location: Location) -> Tensor:
    """Read one tensor by byte range, check its digest, and return it in its stored dtype and shape.

    Raises:
        DamagedSampleError: the bytes are not those that were written; names the shard and offset.
    """
    buffer = bytearray(location.num_bytes)
    try:
        store.read_into(location.shard, location.offset, memoryview(buffer))
    except FileNotFoundError as error:
        raise missing_shard(store, location.shard) from error
    found = xxhash.xxh3_128_hexdigest(buffer)
    if found != location.digest:
        raise damaged_tensor(store, location, found)
    return torch.frombuffer(buffer, dtype=DTYPES[location.dtype]).reshape(location.shape)


def missing_shard(store: Store, shard: str) -> DamagedSampleError:
    """Return the error for a shard that does not exist."""
    return DamagedSampleError(f"{store.uri(shard)} is gone; {repair_hint(deep=False)}")


def damaged_tensor(store: Store, location: Location, found: str) -> DamagedSampleError:
    """Return the error for a tensor whose bytes have the digest `found`, not that of its index row."""
    return DamagedSampleError(
        f"{store.uri(location.shard)}: {location.num_bytes} bytes at {location.offset} have digest {found}, "
        f"their index row says {location.digest}: the shard is damaged; {repair_hint(deep=True)}"
    )
