"""Tensors as one safetensors file, written and read in blocks, and hashed on the way: no byte is read twice.

`safetensors.torch.save_file` needs every tensor on the CPU and a second pass for the digest; its bytes are those here.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
import xxhash
from torch import Tensor

from sana.runtime.threads import in_threads
from sana.store import Block, Store

Tensors = Mapping[str, Tensor]

BLOCK_BYTES = 32 * 2**20
_READ_THREADS = 4  # a disk and S3 both give more to several requests
_LENGTH_BYTES = 8  # a file begins with the length of its header, a number of 8 bytes
_ALIGN_BYTES = 8  # of the header, as safetensors pads it

# safetensors' own names, in its own order: a file has the widest numbers first
_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3", torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64", torch.uint64: "U64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ORDER = {dtype: number for number, dtype in enumerate(_NAMES)}


def file_bytes(tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> int:
    """Return the size of the file that `file_blocks` makes, bytes."""
    return len(_header(tensors, metadata)) + sum(tensor.nbytes for tensor in tensors.values())


def file_blocks(tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> Iterator[Block]:
    """Yield the file of these tensors in blocks: the header, then one tensor after the other, from any device."""
    yield _header(tensors, metadata)
    for name in _in_order(tensors):
        data = as_bytes(tensors[name])
        for start in range(0, len(data), BLOCK_BYTES):
            yield data[start : start + BLOCK_BYTES]


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor of any dtype; not copied if it is contiguous and on the CPU."""
    flat: np.ndarray = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.data


def hashed(blocks: Iterable[Block], *updates: Callable[[Block], object]) -> Iterator[Block]:
    """Pass blocks on, each given to the digests first: `update` methods of hashlib or xxhash."""
    for block in blocks:
        for update in updates:
            update(block)
        yield block


def read_file(
    store: Store, key: str, num_bytes: int, *, on_bytes: Callable[[int], None] | None = None
) -> tuple[dict[str, Tensor], str]:
    """Read a file that `file_blocks` made; returns its tensors, on the CPU, and its xxh3-128: each byte is read once.

    `on_bytes` is told how many bytes each block had.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file.
    """
    buffer = torch.empty(num_bytes, dtype=torch.uint8)
    view, digest = as_bytes(buffer), xxhash.xxh3_128()
    blocks = [view[start : start + BLOCK_BYTES] for start in range(0, num_bytes, BLOCK_BYTES)]

    def read(number: int) -> Block:
        store.read_into(key, number * BLOCK_BYTES, blocks[number])
        return blocks[number]

    for block in in_threads(read, range(len(blocks)), num_threads=_READ_THREADS, num_ahead=_READ_THREADS):
        digest.update(block)
        if on_bytes is not None:
            on_bytes(len(block))
    return _parse(buffer), digest.hexdigest()


def tensors_digests(tensors: Tensors) -> dict[str, str]:
    """Return the xxh3-128 of each tensor's bytes, by name."""
    digests = in_threads(partial(_digest, tensors), list(tensors))
    return dict(zip(tensors, digests, strict=True))


def _digest(tensors: Tensors, name: str) -> str:
    return xxhash.xxh3_128_hexdigest(as_bytes(tensors[name]))


def _in_order(tensors: Tensors) -> list[str]:
    return sorted(tensors, key=lambda name: (-_ORDER[tensors[name].dtype], name))


def _header(tensors: Tensors, metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in _in_order(tensors):
        tensor = tensors[name]
        offsets = [position, position + tensor.nbytes]
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGN_BYTES)
    return struct.pack("<Q", len(text)) + text


def _parse(buffer: Tensor) -> dict[str, Tensor]:
    """Return the tensors in a file's bytes, which they share. Raises ValueError: its header does not fit the bytes."""
    data = buffer.numpy()
    try:
        length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
        entries = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes())
        entries.pop("__metadata__", None)
        tensors = {}
        for name, entry in entries.items():
            begin, end = (_LENGTH_BYTES + length + int(offset) for offset in entry["data_offsets"])
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            if not _LENGTH_BYTES + length <= begin <= end <= len(data):
                raise ValueError(f"{name} is at bytes {begin} to {end} of {len(data)}")
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} of shape {list(shape)} has {end - begin} bytes")
            tensors[name] = buffer[begin:end].view(dtype).reshape(shape)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, RuntimeError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error
    return tensors
