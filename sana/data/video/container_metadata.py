"""Container metadata that PyAV does not show: rotation, fragments, Dolby Vision, and whether a file is cut.

Nothing is decoded. `file` is the descriptor of an open file. A rotation that is not understood is None: then a decoded
frame must show it.
"""

import os
import re
import struct

_ONE = 0x10000  # 1.0 in 16.16 fixed point
_IDENTITY = (_ONE, 0, 0, 0, _ONE, 0, 0, 0, 0x40000000)  # the last column of a matrix is in 2.30 fixed point
_ROTATIONS_DEG = {
    (1, 0, 0, 1): 0,
    (0, -1, 1, 0): 90,
    (-1, 0, 0, -1): 180,
    (0, 1, -1, 0): 270,
}  # by a, b, c, d of a matrix
_TOP_LEVEL_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx", b"styp")
_MATROSKA_HEAD_BYTES = 2**14
_MAX_MOOV_BYTES = 2**26  # a damaged header may state any size
_TRACKS, _CLUSTER = b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"
# the configuration of Dolby Vision: a box of an MP4, or in Matroska a type and then the record in an element of its own
_DOLBY_VISION = re.compile(rb"dv[cvw]C(?:\x41\xed\x98)?([\x01-\x03].{4})", re.DOTALL)
_OWN_COLORS = (5, 10)  # profiles of HEVC and AV1 whose pictures may be of colours that only Dolby Vision shows
_POSE = re.compile(rb"\x76[\x73-\x75][\x84\x88]")  # ProjectionPoseYaw, Pitch or Roll, a float of 4 or 8 bytes


def mp4_rotation(file: int, track_id: int) -> tuple[int | None, bool]:
    """Return (degrees counter-clockwise that bring a track upright, whether the file continues in fragments)."""
    moov = _read_moov(file)
    is_fragmented = b"mvex" in moov
    if _matrix(moov, moov.find(b"mvhd"), 40, 52) != _IDENTITY:  # the movie as a whole is rotated, too
        return None, is_fragmented
    at = moov.find(b"tkhd")
    while at >= 0:
        id_at = at + (24 if moov[at + 4 : at + 5] == b"\1" else 16)
        if moov[id_at : id_at + 4] == track_id.to_bytes(4):
            return _rotation_deg(_matrix(moov, at, 44, 56)), is_fragmented
        at = moov.find(b"tkhd", at + 4)
    return None, is_fragmented


def _read_moov(file: int) -> bytes:
    """Read the content of the moov box, which holds all headers of an MP4 or MOV file; empty if there is none."""
    start, end = 0, os.fstat(file).st_size
    while start + 8 <= end:
        size, name, content = _box(os.pread(file, 16, start), start, end)
        if name == b"moov":
            return os.pread(file, min(start + size - content, end - content, _MAX_MOOV_BYTES), content)
        if start + size < content:
            break
        start += size
    return b""


def mp4_is_cut(file: int) -> bool:
    """Whether a file begins like an MP4 or MOV, and ends inside one of its top-level boxes."""
    start, end = 0, os.fstat(file).st_size
    while start < end:
        head = os.pread(file, 16, start)
        size, name, content = _box(head, start, end)
        if len(head) < 8 or name not in _TOP_LEVEL_BOXES or start + size < content:
            return False
        start += size
    return start > end


def matroska_may_rotate(file: int) -> bool:
    """Return False if nothing in the header of a Matroska or WebM file can rotate the picture."""
    head, cluster, _ = os.pread(file, _MATROSKA_HEAD_BYTES, 0).partition(_CLUSTER)
    return not (cluster and _TRACKS in head) or _POSE.search(head) is not None


def needs_dolby_vision(file: int) -> bool:
    """Whether a file's pictures have Dolby Vision's own colours, and are not also PQ, HLG or SDR."""
    headers = _read_moov(file) or os.pread(file, _MATROSKA_HEAD_BYTES, 0)
    records = [found[1] for found in _DOLBY_VISION.finditer(headers)]  # profile: 7 bits; what else it is: 4 bits
    return any(record[2] >> 1 in _OWN_COLORS and not record[4] >> 4 for record in records)


def _box(head: bytes, start: int, end: int) -> tuple[int, bytes, int]:
    """Return (size, name, offset of the content) of the box at `start`, bytes."""
    size, name = int.from_bytes(head[:4]), head[4:8]
    if size == 1:
        return int.from_bytes(head[8:16]), name, start + 16
    return size or end - start, name, start + 8


def _matrix(moov: bytes, box: int, at: int, at_in_version_1: int) -> tuple[int, ...]:
    """Read the matrix of the box whose name is at `box`; empty if there is none."""
    at = box + (at_in_version_1 if moov[box + 4 : box + 5] == b"\1" else at)
    return struct.unpack(">9i", moov[at : at + 36]) if box >= 0 and len(moov) >= at + 36 else ()


def _rotation_deg(matrix: tuple[int, ...]) -> int | None:
    if not matrix or any(matrix[i] for i in (2, 5)) or matrix[8] != _IDENTITY[8]:
        return None
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    if any(value % _ONE for value in (a, b, c, d)):
        return None
    return _ROTATIONS_DEG.get((a // _ONE, b // _ONE, c // _ONE, d // _ONE))
