"""Decode a window deep in a long h264 video from the last IDR picture before it: the entry.

The rule: the frames are bit for bit those of a decode from the file's start. The packets before the entry are read, not
decoded. Each must be known to give one frame (`h264_bitstream`), in an order that the decoder keeps; where anything is
flagged, cut or not understood, the video is decoded from its start, like those in other codecs or containers. Each
frame from the entry on must have the timestamp that the packets predict; where one does not, or where damage is
reported in the window or shortly after it, the decode from the start decides.

Damage inside a picture's data before the entry, in packets of valid structure, is not seen: the window is that of the
undamaged video, though a decode from the start might have rejected the clip. Which of the two happens depends on the
file and on where its window begins, and on nothing else.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush, heappushpop
from itertools import islice

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sana.data.video.bitstream.h264_bitstream import is_entry, read_header
from sana.data.video.video import MP4

MIN_SKIPPED = 120  # frames: with fewer to skip, a video is decoded from its start
NUM_BEHIND = 17  # frames after the window that must decode: a decoder from the start, which may run ahead, reads them
_CONTAINERS = (MP4, "matroska,webm")
_MAX_UNSTEADY = 1.5  # longest over shortest time between frames of one rate: times are rounded to milliseconds


class NotExact(Exception):  # noqa: N818  an outcome, not an error
    """Decoding from the entry gives, or might give, other frames: the video must be decoded from its start."""


@dataclass(frozen=True)
class Entry:
    """A packet where decoding may begin. Times are presentation timestamps, in ticks of `time_base` seconds."""

    frame: int  # the index of its frame, and the number of packets before it
    pts: int
    first_pts: int  # of the video's first frame
    time_base: Fraction

    @property
    def first_s(self) -> float:
        return _seconds(self.first_pts, self.time_base)

    @property
    def shown_s(self) -> float:
        """When its frame is shown, seconds after the first frame."""
        return _seconds(self.pts, self.time_base) - self.first_s


def _seconds(pts: int, time_base: Fraction) -> float:
    """PyAV's `frame.time`, to the bit."""
    return float(pts) * time_base.numerator / time_base.denominator


def find_entry(container: InputContainer, stream: VideoStream, in_time: Callable[[Entry], bool]) -> Entry | None:
    """Return the last entry that is `in_time` for the window, None if the video is to be decoded from its start."""
    found = find_entries(container, stream, in_time)
    return found[-1] if found else None


def find_entries(container: InputContainer, stream: VideoStream, in_time: Callable[[Entry], bool]) -> list[Entry]:
    """Return the entries that are `in_time` and not among the first frames, in order; none if any is in doubt.

    Packets are read one at a time up to the first entry that is too late; none is kept.
    """
    found = []
    try:
        for entry in _entries(container, stream):
            if not in_time(entry):
                break
            found.append(entry)
    except (av.FFmpegError, ValueError, IndexError, NotExact):  # IndexError: also a stream that appears in the middle
        return []
    return [entry for entry in found if entry.frame >= MIN_SKIPPED]


def _entries(container: InputContainer, stream: VideoStream) -> Iterator[Entry]:
    """Yield the packets where decoding may begin, in order. Raises NotExact, ValueError, IndexError: not understood."""
    context, time_base = stream.codec_context, stream.time_base
    if context.codec.canonical_name != "h264" or container.format.name not in _CONTAINERS or time_base is None:
        raise NotExact
    header = read_header(context.extradata or b"")
    order = _Order(context.reorder_depth, steady=container.format.name != MP4)
    newest: Entry | None = None
    for number, packet in enumerate(container.demux(stream)):
        if packet.size == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
            return
        pts, before = packet.pts, order.latest
        if pts is None or packet.is_corrupt or packet.is_discard or any(packet.iter_sidedata()):
            raise NotExact
        order.add(pts)
        if is_entry(bytes(packet), header, is_first=number == 0):
            if before is not None and pts <= before:
                raise NotExact
            newest = Entry(number, pts, newest.first_pts if newest else pts, time_base)
            yield newest
        elif newest is None or pts <= newest.pts:
            raise NotExact


class _Order:
    """Models a decoder that holds `depth` frames back: it gives the earliest of those it has.

    Matroska continues after bytes that it cannot read, and only a decoder would miss the packets there: if `steady`,
    frames must follow each other at one rate.
    """

    def __init__(self, depth: int, *, steady: bool) -> None:
        self.latest: int | None = None  # timestamp that was added
        self._depth, self._held, self._steady = depth, list[int](), steady
        self._shown: int | None = None
        self._gaps = (0, 0)  # shortest and longest time between two frames, ticks

    def add(self, pts: int) -> None:
        """Add the next packet's timestamp. Raises NotExact if the decoder would give a later frame before it."""
        self.latest = pts if self.latest is None else max(self.latest, pts)
        if len(self._held) < self._depth:
            heappush(self._held, pts)
            return
        shown = heappushpop(self._held, pts)
        if self._shown is not None:
            gap = shown - self._shown
            self._gaps = min(gap, self._gaps[0] or gap), max(gap, self._gaps[1])
            if gap <= 0 or (self._steady and self._gaps[1] > _MAX_UNSTEADY * self._gaps[0]):
                raise NotExact
        self._shown = shown


def frames_from(
    packets: Iterable["tuple[int, Packet[VideoStream]]"], decoder: VideoStream, entry: Entry | None
) -> Iterator[VideoFrame]:
    """Yield an h264 video's frames from `entry.frame` on, or without an entry from the first on, none lost or damaged.

    `packets` are numbered; the decoder must be new. The first packet is decoded too: the decoder remembers its messages
    (the version of x264, whose bugs it then reproduces) and forgets its frame at the entry.

    Raises:
        NotExact: a frame is not the one that the packets predict.
        ClipRejected, av.FFmpegError: the file is damaged.
    """
    # what is concealed in a damaged picture depends on what was decoded before: so it is an error here
    decoder.codec_context.options = {"err_detect": "explode"}
    waiting: list[int] = []  # timestamps of packets whose frame has not come yet
    for number, packet in packets:
        if entry and 0 < number < entry.frame:
            continue
        if packet.size and packet.pts is not None and (entry or not packet.is_discard):  # an edit list may hide frames
            heappush(waiting, packet.pts)
        for frame in decoder.decode(packet):  # the last packet is empty: the decoder gives the rest
            if not waiting or frame.pts != heappop(waiting) or frame.is_corrupt:
                raise NotExact
            if entry and frame.time_base != entry.time_base:
                raise NotExact
            if not entry or frame.pts >= entry.pts:
                yield frame
    if waiting:
        raise NotExact


def decode_behind(decoded: Iterator[object]) -> None:
    """Decode a little beyond the window, as a decoder from the start would. Raises its errors."""
    for _ in islice(decoded, NUM_BEHIND):
        pass
