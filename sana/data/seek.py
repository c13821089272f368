"""A late window of a long film, decoded from the last picture before it that needs nothing of what came before.

The rule: the frames are bit for bit those of a decode from the file's start. The packets before the entry are read, not
decoded, and each must be known to give one frame (`sana.data.bitstream`), in an order that the decoder keeps; anything
that is flagged, cut, or not understood, and the film is decoded from its start, damage and refusals as ever. Each frame
behind the entry must bear the timestamp that the packets foretell; where one does not, where anything is said to be
damaged within the window or shortly behind it, the decode from the start has the last word.

Damage inside a picture's data, in packets of sound outline before the entry, is not seen: the window is read for what
it is, though a decode from the start might have refused the film at that picture. That depends on the file and on
where its window begins, nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush, heappushpop
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sana.data.bitstream import Kind, packet_reader
from sana.data.video import MP4, opened, rgb

MIN_SKIPPED = 120  # frames: with less to skip, films are decoded from their start
_MIN_SKIPPED_HEVC = 1_000  # the same where two decoders run
# frames behind the window that must decode: a decoder that holds more of them back from the start would meet them
_NUM_BEHIND = 17
_CONTAINERS = (MP4, "matroska,webm")
_NUM_BEFORE, _NUM_HELD = 24, 4  # packets and frames that make a second decoder's memory another than the first's
_MAX_UNSTEADY = 1.5  # longest over shortest time between frames of one rate: times are rounded to milliseconds
_WITHOUT_REORDERING = ("vp9", "av1")


class NotExact(Exception):  # noqa: N818  an outcome, not an error
    """Decoding from the entry gives something else than was foretold: the film must be decoded from its start."""


@dataclass(frozen=True)
class Entry:
    """A packet where decoding may begin. Times are presentation timestamps, in ticks of `time_base` seconds."""

    packet: int  # how many packets come before it
    num_leading: int  # packets right behind it that are shown before it, and may need what is skipped
    pts: int
    first_pts: int  # of the film's first frame
    time_base: Fraction

    @property
    def frame(self) -> int:
        """The number of the frame that it shows."""
        return self.packet + self.num_leading

    @property
    def first_s(self) -> float:
        return seconds(self.first_pts, self.time_base)

    @property
    def shown_s(self) -> float:
        """When it is shown, seconds after the first frame."""
        return seconds(self.pts, self.time_base) - self.first_s


def seconds(pts: int, time_base: Fraction) -> float:
    """PyAV's `frame.time`, to the bit."""
    return float(pts) * time_base.numerator / time_base.denominator


def find_entry(container: InputContainer, stream: VideoStream, in_time: Callable[[Entry], bool]) -> Entry | None:
    """Return the last entry that is `in_time` for the window, None if the film is to be decoded from its start.

    Packets are read up to the first entry that is too late, one at a time, and nothing is kept of them.
    """
    found: Entry | None = None
    try:
        for entry in _entries(container, stream):
            if not in_time(entry):
                break
            found = entry
    except (av.FFmpegError, IndexError, NotExact):  # IndexError: a damaged file grows a stream on the way
        return None
    is_hevc = stream.codec_context.codec.canonical_name == "hevc"
    return found if found and found.frame >= (_MIN_SKIPPED_HEVC if is_hevc else MIN_SKIPPED) else None


def _entries(container: InputContainer, stream: VideoStream) -> Iterator[Entry]:
    """Yield the places where decoding may begin, in order. Raises NotExact at what is not understood."""
    context, time_base = stream.codec_context, stream.time_base
    codec = context.codec.canonical_name
    read = packet_reader(codec, context.extradata or b"") if container.format.name in _CONTAINERS else None
    if read is None or time_base is None:
        raise NotExact
    depth = 0 if codec in _WITHOUT_REORDERING else context.reorder_depth
    order = _Order(depth, steady=container.format.name != MP4)
    newest: tuple[int, int] | None = None  # packet and timestamp of the last entry
    num_leading, is_open, first_pts = 0, False, 0  # open: more leading packets may come
    for number, packet in enumerate(_packets(container, stream)):
        pts = packet.pts
        kind = read(bytes(packet), number == 0)
        if kind is None or pts is None or packet.is_corrupt or packet.is_discard or any(packet.iter_sidedata()):
            raise NotExact
        if newest is None:
            first_pts = pts
        before = order.latest
        order.add(pts)
        if kind is Kind.LEADING:
            if not is_open or newest is None or newest[0] == 0 or pts >= newest[1]:
                raise NotExact
            num_leading += 1
            continue
        if is_open and newest is not None:
            is_open = False
            yield Entry(newest[0], num_leading, newest[1], first_pts, time_base)
        if kind is Kind.ENTRY:
            if before is not None and pts <= before:
                raise NotExact
            newest, num_leading, is_open = (number, pts), 0, True
        elif newest is None or pts <= newest[1]:
            raise NotExact


class _Order:
    """What a decoder does that holds `depth` frames back: it gives the earliest of those it has.

    Matroska goes on behind bytes that it cannot read, and the packets there are missed by nobody but a decoder: where
    `steady`, frames must follow each other at one rate.
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


def frames_from(path: Path, container: InputContainer, stream: VideoStream, entry: Entry) -> Iterator[VideoFrame]:
    """Yield the film's frames from `entry.frame` on, of a container of `path` just opened.

    Raises:
        NotExact: a frame is not the one that the packets foretell.
        ClipRefused, av.FFmpegError: what is damaged.
    """
    if stream.codec_context.codec.canonical_name != "hevc":
        yield from _decoded(container, stream, entry)
        return
    # of a picture that breaks off libav shows what its memory held, and says nothing: two decoders hold other things
    held: deque[VideoFrame] = deque(maxlen=_NUM_HELD)
    with opened(path) as (other_container, other_stream):
        others = _decoded(other_container, other_stream, entry, num_before=_NUM_BEFORE)
        for frame, other in zip(_decoded(container, stream, entry), others, strict=True):
            if not np.array_equal(rgb(frame), rgb(other)):
                raise NotExact
            held.append(other)
            yield frame


def _decoded(
    container: InputContainer, stream: VideoStream, entry: Entry, *, num_before: int = 0
) -> Iterator[VideoFrame]:
    """Yield frames from the entry on; before that, decode the first `num_before` packets for nothing."""
    # what is left in a damaged picture depends on what was decoded before: to be refused here, not concealed
    stream.codec_context.options = {"err_detect": "explode"}
    waiting: list[int] = []  # timestamps of packets whose frame has not come yet
    for number, packet in _given(container, stream, entry, num_before):
        if number < num_before:
            packet.decode()
            continue
        if number == entry.packet and num_before:
            stream.codec_context.flush_buffers()
        if packet.size and packet.pts is not None:
            heappush(waiting, packet.pts)
        for frame in packet.decode():
            if not waiting or frame.pts != heappop(waiting) or frame.time_base != entry.time_base or frame.is_corrupt:
                raise NotExact
            if frame.pts >= entry.pts:
                yield frame
    if waiting:
        raise NotExact


def decode_behind(decoded: Iterator[object]) -> None:
    """Decode a little behind a late window, for what a decoder from the start would meet. Raises what it meets."""
    for _ in islice(decoded, _NUM_BEHIND):
        pass


def _given(
    container: InputContainer, stream: VideoStream, entry: Entry, num_before: int
) -> Iterator[tuple[int, Packet]]:
    """Yield the packets to decode with their numbers, and last the empty one that makes the decoder give the rest.

    To h264 the first packet is among them: its messages are remembered (which version of x264 made the film, whose
    faults are then followed), and its frame is forgotten at the entry.
    """
    if stream.codec_context.codec.canonical_name == "h264":
        num_before = 1
    behind = entry.packet + 1 + entry.num_leading
    for number, packet in enumerate(container.demux(stream)):
        if number >= behind or number == entry.packet or number < num_before:
            yield number, packet


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    for packet in container.demux(stream):
        if packet.size == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
            return
        yield packet
