"""What PyAV does not show of a file's header: how the picture is to be turned, and whether a film is in fragments.

Nothing is decoded. What is not understood is None: a decoded frame must tell then.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

_ONE = 0x10000  # 1.0 in 16.16 fixed point
_PLAIN = (_ONE, 0, 0, 0, _ONE, 0, 0, 0, 0x40000000)  # the identity; the last column of a matrix is in 2.30
_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}  # a, b, c, d of a matrix
_MATROSKA_HEAD_BYTES = 65536
_TRACKS, _CLUSTER = b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"
_POSE = re.compile(rb"\x76[\x73-\x75][\x84\x88]")  # ProjectionPoseYaw, Pitch or Roll, a float of 4 or 8 bytes


def mp4_turns(path: Path, track_id: int) -> tuple[int | None, bool]:
    """Return (quarter turns counter-clockwise that bring a track upright, whether the film goes on in fragments)."""
    movie = _movie(path)
    boxes = list(_boxes(movie, 0, len(movie)))
    in_fragments = any(name == b"mvex" for name, _, _ in boxes)
    whole = [_matrix(movie[start:end], 36, 48) for name, start, end in boxes if name == b"mvhd"]
    if whole != [_PLAIN]:  # the film as a whole is turned, too
        return None, in_fragments
    for name, start, end in boxes:
        header = (
            next((movie[s:e] for n, s, e in _boxes(movie, start, end) if n == b"tkhd"), b"") if name == b"trak" else b""
        )
        at = 20 if header[:1] == b"\1" else 12
        if header[at : at + 4] == track_id.to_bytes(4):
            return _quarter_turns(_matrix(header, 40, 52)), in_fragments
    return None, in_fragments


def _movie(path: Path) -> bytes:
    """Read the content of the box that holds all headers of an MP4 or MOV file; empty if there is none."""
    file = os.open(path, os.O_RDONLY)
    try:
        start, end = 0, os.fstat(file).st_size
        while start + 8 <= end:
            size, name, content = _head(os.pread(file, 16, start), start, end)
            if name == b"moov":
                return os.pread(file, min(start + size, end) - content, content)
            if start + size < content:
                break
            start += size
        return b""
    finally:
        os.close(file)


def matroska_may_turn(path: Path) -> bool:
    """Return False if nothing in the header of a Matroska or WebM file can turn the picture."""
    with path.open("rb", buffering=0) as file:
        head, cluster, _ = file.read(_MATROSKA_HEAD_BYTES).partition(_CLUSTER)
    return not (cluster and _TRACKS in head) or _POSE.search(head) is not None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the content of the boxes between two offsets, up to the first that is damaged."""
    while start + 8 <= end:
        size, name, content = _head(data[start : start + 16], start, end)
        if start + size < content:
            return
        yield name, content, min(start + size, end)
        start += size


def _head(head: bytes, start: int, end: int) -> tuple[int, bytes, int]:
    """Return (size, name, where the content begins) of the box at `start`."""
    size, name = int.from_bytes(head[:4]), head[4:8]
    if size == 1:
        return int.from_bytes(head[8:16]), name, start + 16
    return size or end - start, name, start + 8


def _matrix(header: bytes, at: int, at_in_version_1: int) -> tuple[int, ...]:
    at = at_in_version_1 if header[:1] == b"\1" else at
    return struct.unpack(">9i", header[at : at + 36]) if len(header) >= at + 36 else ()


def _quarter_turns(matrix: tuple[int, ...]) -> int | None:
    if not matrix or any(matrix[i] for i in (2, 5)) or matrix[8] != _PLAIN[8]:
        return None
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    return _TURNS.get((a // _ONE, b // _ONE, c // _ONE, d // _ONE)) if not any(v % _ONE for v in (a, b, c, d)) else None
