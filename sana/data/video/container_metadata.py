"""What PyAV does not show of a file's header: how the picture is to be turned, and whether a film is in fragments.

Nothing is decoded. `file` is an open file's descriptor. What is not understood is None: a decoded frame must tell then.
"""

import os
import re
import struct

_ONE = 0x10000  # 1.0 in 16.16 fixed point
_PLAIN = (_ONE, 0, 0, 0, _ONE, 0, 0, 0, 0x40000000)  # the identity; the last column of a matrix is in 2.30
_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}  # a, b, c, d of a matrix
_OUTERMOST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx", b"styp")
_MATROSKA_HEAD_BYTES = 2**14
_MAX_MOVIE_BYTES = 2**26  # of tables that a damaged header claims to have
_TRACKS, _CLUSTER = b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"
_POSE = re.compile(rb"\x76[\x73-\x75][\x84\x88]")  # ProjectionPoseYaw, Pitch or Roll, a float of 4 or 8 bytes


def mp4_turns(file: int, track_id: int) -> tuple[int | None, bool]:
    """Return (quarter turns counter-clockwise that bring a track upright, whether the film goes on in fragments)."""
    movie = _movie(file)
    in_fragments = b"mvex" in movie
    if _matrix(movie, movie.find(b"mvhd"), 40, 52) != _PLAIN:  # the film as a whole is turned, too
        return None, in_fragments
    at = movie.find(b"tkhd")
    while at >= 0:
        where_id = at + (24 if movie[at + 4 : at + 5] == b"\1" else 16)
        if movie[where_id : where_id + 4] == track_id.to_bytes(4):
            return _quarter_turns(_matrix(movie, at, 44, 56)), in_fragments
        at = movie.find(b"tkhd", at + 4)
    return None, in_fragments


def _movie(file: int) -> bytes:
    """Read the content of the box that holds all headers of an MP4 or MOV file; empty if there is none."""
    start, end = 0, os.fstat(file).st_size
    while start + 8 <= end:
        size, name, content = _head(os.pread(file, 16, start), start, end)
        if name == b"moov":
            return os.pread(file, min(start + size - content, end - content, _MAX_MOVIE_BYTES), content)
        if start + size < content:
            break
        start += size
    return b""


def mp4_is_cut(file: int) -> bool:
    """Whether a file begins as an MP4 or MOV does, and ends inside one of its outermost boxes."""
    start, end = 0, os.fstat(file).st_size
    while start < end:
        head = os.pread(file, 16, start)
        size, name, content = _head(head, start, end)
        if len(head) < 8 or name not in _OUTERMOST or start + size < content:
            return False
        start += size
    return start > end


def matroska_may_turn(file: int) -> bool:
    """Return False if nothing in the header of a Matroska or WebM file can turn the picture."""
    head, cluster, _ = os.pread(file, _MATROSKA_HEAD_BYTES, 0).partition(_CLUSTER)
    return not (cluster and _TRACKS in head) or _POSE.search(head) is not None


def _head(head: bytes, start: int, end: int) -> tuple[int, bytes, int]:
    """Return (size, name, where the content begins) of the box at `start`."""
    size, name = int.from_bytes(head[:4]), head[4:8]
    if size == 1:
        return int.from_bytes(head[8:16]), name, start + 16
    return size or end - start, name, start + 8


def _matrix(movie: bytes, box: int, at: int, at_in_version_1: int) -> tuple[int, ...]:
    """Read the matrix of the box whose name is at `box`; empty if there is none."""
    at = box + (at_in_version_1 if movie[box + 4 : box + 5] == b"\1" else at)
    return struct.unpack(">9i", movie[at : at + 36]) if box >= 0 and len(movie) >= at + 36 else ()


def _quarter_turns(matrix: tuple[int, ...]) -> int | None:
    if not matrix or any(matrix[i] for i in (2, 5)) or matrix[8] != _PLAIN[8]:
        return None
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    return _TURNS.get((a // _ONE, b // _ONE, c // _ONE, d // _ONE)) if not any(v % _ONE for v in (a, b, c, d)) else None
