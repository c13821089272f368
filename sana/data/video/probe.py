"""Probe: the facts of a video, from its header and its packets' times. A frame is decoded only where both lack one.

A file that cannot be used raises `ClipRejected`; a disk that cannot be read raises `OSError`, which is not the clip's
fault and may be retried.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import add, sub
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sana.data.video.bitstream.coding_names import FIELD_ORDERS, PRIMARIES, RANGES, SPACES, TRANSFERS, name_of
from sana.data.video.bitstream.hevc_header import HevcTags, hevc_tags
from sana.data.video.container_metadata import matroska_may_rotate, mp4_is_cut, mp4_rotation, needs_dolby_vision
from sana.data.video.video import MP4, ClipRejected, opened, rotation_deg, sample_aspect

_ROUNDING_TICKS = 1.5  # a container rounds times to whole ticks: the ends of a span may be off by half of one each
_MAX_JITTER = 0.1  # of the mean interval: the largest deviation of an interval at a constant rate
_MAX_DRIFT = 0.5  # of the mean interval: the largest deviation of a frame's time from a constant rate's
_AVI_CHUNK_BYTES = 8  # its index has the offset of the chunk, whose header precedes the packet
# no packet of _COMPRESSED codecs begins with so many zeros: the disk space was reserved and never written
_EMPTY_PACKET = bytes(16)
_PICTURES = ("gif", "apng")  # that may move
_COMPRESSED = ("h264", "hevc", "vp9", "av1", "mpeg4")

_MAY_BE_HLG = ("bt2020-10", "bt2020-12")
_OF_DOLBY_VISION = ("hevc", "av1")
_NO_TAGS = HevcTags(2, 2, 2, is_interlaced=False)


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video, known without decoding its frames: the columns VIDEO_FACTS of a probe row, and more.

    `width` and `height` are the size on display: the stored size, its width times `sample_aspect` (width over height
    of one pixel, 1 if almost square), then rotated by `rotation_deg` (0, 90, 180 or 270, counter-clockwise).
    `read_frames` sees this size.
    Times are presentation times; the last frame is assumed to last as long as the others on average.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation_deg: int
    sample_aspect: float
    fps: float  # average over the clip, frames per second
    nominal_fps: float  # the rate the stream was made for, 0 if not stated
    variable_fps: bool
    num_frames: int  # counted; frames that an edit list hides are not
    duration_s: float  # num_frames / fps
    codec: str  # "h264", "hevc", "vp9" ...
    pixel_format: str  # "yuv420p", "yuv420p10le" ...
    bit_depth: int
    color_space: str  # as ffprobe names it, or "unknown"; the same below
    color_primaries: str
    color_transfer: str
    color_range: str  # "tv" (limited) or "pc" (full)
    field_order: str  # "progressive"; "tt", "bb", "tb" or "bt" of interlaced video: field coded first, shown first
    has_audio: bool


@dataclass(frozen=True)
class _Times:
    """Number and times of a file's frames, from its packets."""

    num_frames: int
    num_intervals: int  # between frames with a timestamp
    interval: float  # the mean, ticks; 0: unknown
    variable: bool
    tick_s: float


def _times(num_frames: int, ticks: Sequence[int], time_base: Fraction | None) -> _Times:
    """Derive the rate and its variation from the sorted timestamps of frames, ticks."""
    num_intervals, tick_s = max(0, len(ticks) - 1), float(time_base or 0)
    if num_intervals == 0 or not tick_s or ticks[-1] == ticks[0]:
        return _Times(num_frames, 0, 0.0, False, tick_s)
    interval = (ticks[-1] - ticks[0]) / num_intervals
    steps = set(map(sub, ticks[1:], ticks))
    variable = len(steps) > 1 and (
        max(abs(step - interval) for step in steps) > _MAX_JITTER * interval + _ROUNDING_TICKS
        or max(abs(tick - ticks[0] - interval * index) for index, tick in enumerate(ticks))
        > _MAX_DRIFT * interval + _ROUNDING_TICKS
    )
    return _Times(num_frames, num_intervals, interval, variable, tick_s)


def probe_video(path: Path) -> VideoInfo:
    """Read a video's facts.

    The tables of MP4, MOV and AVI suffice in plain cases; of any other file all packets are read and counted. No frame
    is decoded unless only a frame can show its rotation, or that it is HLG.

    Raises:
        ClipRejected: empty, unreadable (mirrored videos, too), no_video, truncated or color (Dolby Vision alone).
        OSError: the file is missing or the disk failed.
    """
    with _descriptor(path) as file:
        try:
            info = _probe(path, file)
        except ClipRejected as rejection:
            if rejection.reason in ("empty", "truncated") or not mp4_is_cut(file):
                raise
            # without its tables its facts are unknown
            detail = f"the file ends early, at byte {os.fstat(file).st_size} ({rejection.detail})"
            raise ClipRejected("truncated", detail) from None
        if info.codec in _OF_DOLBY_VISION and needs_dolby_vision(file):
            raise ClipRejected("color", "its colours are those of Dolby Vision alone (profile 5, or 10.0)")
    if info.codec == "hevc" and info.color_transfer in _MAY_BE_HLG:
        return replace(info, color_transfer=_shown_transfer(path) or info.color_transfer)
    return info


def _shown_transfer(path: Path) -> str:
    """Return the transfer curve of the first frame, where HEVC may name HLG beside one for old devices; "": none."""
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            return TRANSFERS.get(frame.color_trc, "")
    return ""


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _probe(path: Path, file: int) -> VideoInfo:
    with opened(path) as (container, stream):
        rotation, times, kind = None, None, container.format.name
        if kind == MP4:
            rotation, is_fragmented = mp4_rotation(file, stream.id)
            times = None if is_fragmented else _times_of_index(file, stream, 0)
        elif kind != "matroska,webm" or not matroska_may_rotate(file):
            rotation = 0
            times = _times_of_index(file, stream, _AVI_CHUNK_BYTES) if kind == "avi" else None
        if times is None:
            times, rotation = _times_of_packets(container, stream, rotation)
        if times.num_frames == 1 and kind in _PICTURES:
            raise ClipRejected("no_video", f"it is a still image ({kind.upper()} of one frame), not a video")
        if rotation is None:
            rotation = _decoded_rotation(container, stream)
        return _describe(container, stream, times, rotation)


def _times_of_index(file: int, stream: VideoStream, chunk_header_bytes: int) -> _Times | None:
    """Read the frames' times from a file's sample table; None if packets must be read, as in a file that was cut.

    The table holds decoding times. At a constant rate presentation times are the same in another order, and later by a
    constant; at a varying rate, or where an edit list trims, packets must be read.

    Raises:
        ClipRejected: truncated: the first or the last frame was never written.
    """
    num_frames, table = stream.frames, stream.index_entries
    if not num_frames or len(table) != num_frames:
        return None
    entries = [(entry.timestamp, entry.pos + chunk_header_bytes, entry.size, entry.is_discard) for entry in table]
    ticks, positions, sizes, hidden = zip(*entries, strict=True)
    if any(hidden) or min(sizes) <= 0:
        return None
    if max(map(add, positions, sizes)) > os.fstat(file).st_size:
        return None
    if stream.codec_context.codec.canonical_name in _COMPRESSED:
        _check_written(file, entries[0][1:3], entries[-1][1:3])
    times = _times(num_frames, ticks, stream.time_base)
    return None if times.variable or (num_frames > 1 and not times.interval) else times


def _check_written(file: int, *packets: tuple[int, int]) -> None:
    """Reject a file whose space was reserved and never written; `packets` are positions and sizes, bytes."""
    for position, size in packets:
        if os.pread(file, min(size, len(_EMPTY_PACKET)), position) == _EMPTY_PACKET[:size]:
            raise ClipRejected("truncated", f"zeros from byte {position} on, where a frame of {size} bytes should be")


def _times_of_packets(
    container: InputContainer, stream: VideoStream, rotation: int | None
) -> tuple[_Times, int | None]:
    """Read all packets; if the rotation is unknown, decode from the first on until a frame shows it.

    Returns the times and the rotation, degrees.

    Raises:
        ClipRejected: truncated: fewer packets than the header says, or the last one is not whole.
    """
    num_packets, num_frames, last = 0, 0, None
    ticks: list[int] = []
    num_stated = _stated_packets(container, stream)
    for packet in container.demux(stream):
        if rotation is None and not packet.is_corrupt:
            rotation = next(map(_rotation, stream.decode(packet)), None)
        if (size := packet.size) == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
            break
        num_packets, last = num_packets + 1, packet
        if size and not packet.is_discard:  # AVI repeats a frame by an empty packet; an edit list trims
            num_frames += 1
            if (time := packet.pts) is not None:
                ticks.append(time)
    if not num_frames or num_packets < num_stated:
        raise ClipRejected("truncated", f"{num_packets} of {num_stated or 'at least 1'} frames are in the file")
    if last is not None and last.is_corrupt:
        raise ClipRejected("truncated", f"the file ends inside frame {num_packets}")
    if rotation is None and (rotation := next(map(_rotation, stream.decode(None)), None)) is None:
        raise ClipRejected("unreadable", f"none of {num_packets} packets decodes to a frame")
    return _times(num_frames, sorted(ticks), stream.time_base), rotation


def _stated_packets(container: InputContainer, stream: VideoStream) -> int:
    """Return the number of packets by the header, 0 if not stated (Matroska, fragmented MP4).

    AVI counts packets without bytes, which repeat a frame; they are not in its index, and are not read.
    """
    if container.format.name == "avi" and stream.index_entries:  # it is the last thing that is written
        return len(stream.index_entries)
    if container.format.name == MP4:  # an edit list removes samples from the index, not from the header's count
        return min(stream.frames, len(stream.index_entries))
    return stream.frames


def _rotation(frame: VideoFrame) -> int:
    """Return the degrees that bring a frame upright; a mirrored picture is rejected."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))  # type: ignore[call-overload]  # it is a buffer
        if a * d < b * c:
            raise ClipRejected("unreadable", "its display matrix mirrors the picture, which is not undone here")
    return rotation_deg(frame)


def _decoded_rotation(container: InputContainer, stream: VideoStream) -> int:
    for frame in container.decode(stream):
        return _rotation(frame)
    raise ClipRejected("unreadable", "no packet decodes to a frame")


def _describe(container: InputContainer, stream: VideoStream, times: _Times, rotation: int) -> VideoInfo:
    context, aspect = stream.codec_context, sample_aspect(stream)
    pixels = context.format
    if pixels is None or not context.width or not context.height:
        raise ClipRejected("unreadable", f"{context.width} x {context.height} pixels of unknown format")
    size = max(1, round(context.width * aspect)), context.height
    width, height = size[::-1] if rotation in (90, 270) else size
    fps, own = _frame_rate(stream, times), hevc_tags(context) if context.codec.canonical_name == "hevc" else _NO_TAGS
    return VideoInfo(
        width=width,
        height=height,
        coded_width=context.width,
        coded_height=context.height,
        rotation_deg=rotation,
        sample_aspect=aspect,
        fps=fps,
        nominal_fps=float(stream.base_rate or 0),
        variable_fps=times.variable,
        num_frames=times.num_frames,
        duration_s=times.num_frames / fps,
        codec=context.codec.canonical_name,
        pixel_format=pixels.name,
        bit_depth=pixels.components[0].bits,
        color_space=name_of(SPACES, own.colorspace, context.colorspace),
        color_primaries=name_of(PRIMARIES, own.color_primaries, context.color_primaries),
        color_transfer=name_of(TRANSFERS, own.color_trc, context.color_trc),
        color_range=RANGES.get(context.color_range, "unknown"),
        field_order=name_of(
            FIELD_ORDERS, 2 if own.is_interlaced and context.field_order < 2 else 0, context.field_order
        ),
        has_audio=any(other.type == "audio" for other in container.streams),
    )


def _frame_rate(stream: VideoStream, times: _Times) -> float:
    """Return the header's average rate if it agrees with the timestamps, else the rate that they measure: fps."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    if stated > 0:
        error = abs(1 / (stated * times.tick_s) - times.interval) if times.interval else 0.0
        if error * times.num_intervals <= _ROUNDING_TICKS:
            return stated
    if not times.interval:
        raise ClipRejected("unreadable", f"no frame rate for {times.num_frames} frames, neither stated nor by times")
    return 1 / (times.interval * times.tick_s)
