"""Probe: what a video holds, by its header and its packets' times. A frame is decoded only where both are silent.

A file that cannot be used is a `ClipRejected`; a disk that cannot be read is an `OSError`, which is not the clip's
fault and worth another try.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from operator import add, sub
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sana.data.video.container_metadata import matroska_may_turn, mp4_is_cut, mp4_turns
from sana.data.video.video import MP4, ClipRejected, opened, quarter_turns, sample_aspect

_ROUNDING_TICKS = 1.5  # a container rounds times to whole ticks: the ends of a span may be off by half of one each
_MAX_JITTER = 0.1  # of the mean interval: what a constant rate may deviate by
_MAX_DRIFT = 0.5  # the same, of a frame's time from where a constant rate would put it
_AVI_CHUNK_BYTES = 8  # its index names the chunk, whose header comes before the packet
# no packet of these begins with so many zeros: the disk space was reserved and the bytes never came
_EMPTY_PACKET = bytes(16)
_COMPRESSED = ("h264", "hevc", "vp9", "av1", "mpeg4")

# libavutil's and libavcodec's numbers; what is not here is "unknown" or has no name in practice
_SPACES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
           9: "bt2020nc", 10: "bt2020c", 14: "ictcp"}  # fmt: skip
_PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
              10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"}  # fmt: skip
_TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 11: "iec61966-2-4",
              13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428",
              18: "arib-std-b67"}  # fmt: skip
_RANGES = {1: "tv", 2: "pc"}
_FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are decoded: the columns VIDEO_FACTS of a probe row, and more.

    `width` and `height` are the size on display: the stored size, its width times `sample_aspect` (width over height
    of one pixel, 1 if almost square), then turned by `rotation_deg` (0, 90, 180 or 270, counter-clockwise).
    `read_frames` sees this size.
    Times are presentation times; the last frame is taken to last as long as the frames do on average.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation_deg: int
    sample_aspect: float
    fps: float  # average over the clip, frames per second
    nominal_fps: float  # the rate the stream is made for, 0 if it is not stated
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
    """What a file's packets say of its frames."""

    num_frames: int
    num_intervals: int  # between frames whose time is stated
    interval: float  # the mean, ticks; 0: not known
    variable: bool
    tick_s: float


def _times(num_frames: int, ticks: Sequence[int], time_base: Fraction | None) -> _Times:
    """Judge the times that are stated of frames, in ticks, sorted."""
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

    MP4, MOV and AVI tell everything in their tables, where those are plain; of any other file all packets are read and
    counted. No frame is decoded unless only a frame can tell how it is turned.

    Raises:
        ClipRejected: empty, unreadable (mirrored films, too), no_video or truncated.
        OSError: the file is missing or the disk failed.
    """
    with _descriptor(path) as file:
        try:
            return _probe(path, file)
        except ClipRejected as rejection:
            if rejection.reason in ("empty", "truncated") or not mp4_is_cut(file):
                raise
            # without its tables nobody can tell what it was
            detail = f"the file ends early, at byte {os.fstat(file).st_size} ({rejection.detail})"
            raise ClipRejected("truncated", detail) from None


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _probe(path: Path, file: int) -> VideoInfo:
    with opened(path) as (container, stream):
        turns, times, kind = None, None, container.format.name
        if kind == MP4:
            turns, in_fragments = mp4_turns(file, stream.id)
            times = None if in_fragments else _times_of_index(file, stream, 0)
        elif kind != "matroska,webm" or not matroska_may_turn(file):
            turns = 0
            times = _times_of_index(file, stream, _AVI_CHUNK_BYTES) if kind == "avi" else None
        if times is None:
            times, turns = _times_of_packets(container, stream, turns)
        if turns is None:
            turns = _decoded_turns(container, stream)
        return _describe(container, stream, times, turns)


def _times_of_index(file: int, stream: VideoStream, chunk_header_bytes: int) -> _Times | None:
    """Read the frames' times off a file's sample table; None if packets must be read, as in a file that was cut.

    The table holds decoding times. Presentation times are the same in another order, and later by a constant, wherever
    the rate is constant; packets must be read where it is not, or where an edit list trims.

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
    """Reject a file whose space was reserved and never filled; `packets` are positions and sizes, bytes."""
    for position, size in packets:
        if os.pread(file, min(size, len(_EMPTY_PACKET)), position) == _EMPTY_PACKET[:size]:
            raise ClipRejected("truncated", f"zeros from byte {position} on, where a frame of {size} bytes should be")


def _times_of_packets(container: InputContainer, stream: VideoStream, turns: int | None) -> tuple[_Times, int | None]:
    """Read all packets; decode from the first on until a frame says how it is turned, if that is not known.

    Raises:
        ClipRejected: truncated: fewer packets than the header says, or the last one is not whole.
    """
    num_packets, num_frames, last = 0, 0, None
    ticks: list[int] = []
    promised = _promised_packets(container, stream)
    for packet in container.demux(stream):
        if turns is None and not packet.is_corrupt:
            turns = next(map(_turns, stream.decode(packet)), None)
        if (size := packet.size) == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
            break
        num_packets, last = num_packets + 1, packet
        if size and not packet.is_discard:  # AVI repeats a frame by an empty packet; an edit list trims
            num_frames += 1
            if (time := packet.pts) is not None:
                ticks.append(time)
    if not num_frames or num_packets < promised:
        raise ClipRejected("truncated", f"{num_packets} of {promised or 'at least 1'} frames are in the file")
    if last is not None and last.is_corrupt:
        raise ClipRejected("truncated", f"the file ends inside frame {num_packets}")
    if turns is None and (turns := next(map(_turns, stream.decode(None)), None)) is None:
        raise ClipRejected("unreadable", f"none of {num_packets} packets decodes to a frame")
    return _times(num_frames, sorted(ticks), stream.time_base), turns


def _promised_packets(container: InputContainer, stream: VideoStream) -> int:
    """How many packets the header says there are, 0 if it does not say (Matroska, fragmented MP4)."""
    if container.format.name == MP4:  # an edit list takes samples out of the index, not out of the header's count
        return min(stream.frames, len(stream.index_entries))
    return stream.frames


def _turns(frame: VideoFrame) -> int:
    """Quarter turns that bring a frame upright; a picture that is shown in a mirror is not turned, it is rejected."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is not None:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))  # type: ignore[call-overload]  # it is a buffer
        if a * d < b * c:
            raise ClipRejected("unreadable", "its display matrix mirrors the picture, which is not undone here")
    return quarter_turns(frame)


def _decoded_turns(container: InputContainer, stream: VideoStream) -> int:
    for frame in container.decode(stream):
        return _turns(frame)
    raise ClipRejected("unreadable", "no packet decodes to a frame")


def _describe(container: InputContainer, stream: VideoStream, times: _Times, turns: int) -> VideoInfo:
    context, aspect = stream.codec_context, sample_aspect(stream)
    pixels = context.format
    if pixels is None or not context.width or not context.height:
        raise ClipRejected("unreadable", f"{context.width} x {context.height} pixels of unknown format")
    size = max(1, round(context.width * aspect)), context.height
    width, height = size[::-1] if turns % 2 else size
    fps = _frame_rate(stream, times)
    return VideoInfo(
        width=width,
        height=height,
        coded_width=context.width,
        coded_height=context.height,
        rotation_deg=turns * 90,
        sample_aspect=aspect,
        fps=fps,
        nominal_fps=float(stream.base_rate or 0),
        variable_fps=times.variable,
        num_frames=times.num_frames,
        duration_s=times.num_frames / fps,
        codec=context.codec.canonical_name,
        pixel_format=pixels.name,
        bit_depth=pixels.components[0].bits,
        color_space=_SPACES.get(context.colorspace, "unknown"),
        color_primaries=_PRIMARIES.get(context.color_primaries, "unknown"),
        color_transfer=_TRANSFERS.get(context.color_trc, "unknown"),
        color_range=_RANGES.get(context.color_range, "unknown"),
        field_order=_FIELD_ORDERS.get(context.field_order, "unknown"),
        has_audio=any(other.type == "audio" for other in container.streams),
    )


def _frame_rate(stream: VideoStream, times: _Times) -> float:
    """The header's average rate if it gives the span of the timestamps, to their rounding; else what they measure."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    if stated > 0:
        error = abs(1 / (stated * times.tick_s) - times.interval) if times.interval else 0.0
        if error * times.num_intervals <= _ROUNDING_TICKS:
            return stated
    if not times.interval:
        raise ClipRejected("unreadable", f"no frame rate for {times.num_frames} frames, neither stated nor by times")
    return 1 / (times.interval * times.tick_s)
