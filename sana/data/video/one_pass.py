"""Decode several windows of one video in one pass over it, each bit for bit as `read_window` decodes it alone.

Packets are read once, and once before where windows leave long gaps: after such a gap a new decoder begins at the last
entry before the next window (`h264_seek`). A window's outcome must not depend on which others are read with it, so the
pass ends at the first doubt, and the windows left are read one by one.

Shapes in this module: F frames, H height, W width (pixels).
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana.bucket import Bucket
from sana.data.video.bitstream.h264_seek import MIN_SKIPPED, NUM_BEHIND, Entry, NotExact, find_entries, frames_from
from sana.data.video.decode_by_time import shown_at, tick_s, timed
from sana.data.video.frames import read_window
from sana.data.video.treatment import Treated, may_seek
from sana.data.video.video import Box, ClipRejected, ToRgb, opened, rotate_crop_resize

Window = Mapping[str, Any]  # the columns SAMPLE_KEY_COLUMNS of a sample
Frames = NDArray[np.uint8]  # [F, H, W, 3], RGB

# columns in which windows that are read in one pass agree: SAMPLE_KEY_COLUMNS but for `start_frame`
OF_ONE_PASS = ("digest", "bucket", "window_fps", "crop_left", "crop_top", "crop_width", "crop_height", "treatment")


def read_windows(path: Path, windows: Sequence[Window]) -> Iterator[Frames | ClipRejected]:
    """Decode samples that differ in `start_frame` only, in that order: uint8 [F, H, W, 3] each, or its rejection.

    In memory are one window, the frames that it shares with the next, and a few decoded frames.

    Raises:
        OSError: the file is missing or the disk failed.
    """
    num_read = 0
    if len(windows) > 1:
        together = _read_together(path, windows)
        try:
            while num_read < len(windows):
                yield next(together)
                num_read += 1
        except (ClipRejected, NotExact):
            pass
    for window in windows[num_read:]:
        yield _read_alone(path, window)


def _read_alone(path: Path, window: Window) -> Frames | ClipRejected:
    try:
        return read_window(path, window)
    except ClipRejected as rejected:
        return rejected


def _read_together(path: Path, windows: Sequence[Window]) -> Iterator[Frames]:
    """Yield the windows in order. Raises ClipRejected or NotExact at the first that may differ from `read_window`'s."""
    first = windows[0]
    bucket, rate, treatment = Bucket.parse(first["bucket"]), first["window_fps"], first["treatment"]
    crop = (first["crop_left"], first["crop_top"], first["crop_width"], first["crop_height"])
    starts = [window["start_frame"] for window in windows]
    runs = _runs(path, starts, bucket.num_frames, rate, seek=may_seek(treatment))
    with opened(path) as (container, stream):
        packets = _Packets(container, stream)
        for run in runs:
            pictures = _pictures(_decoded(path, packets, run, stream, rate, treatment), stream, bucket, crop)
            shared = np.empty((0, bucket.height, bucket.width, 3), np.uint8)
            for start, following in pairwise([*run.starts, run.stop]):
                made = [_filled(pictures, shared, bucket)]
                shared = made[0][following - start :].copy()
                yield made.pop()  # none is kept here while the caller works on it


def _filled(pictures: Iterator[NDArray[np.uint8]], shared: Frames, bucket: Bucket) -> Frames:
    """Return a window that begins with the frames `shared`."""
    frames = np.empty((bucket.num_frames, bucket.height, bucket.width, 3), np.uint8)
    frames[: len(shared)] = shared
    for number in range(len(shared), len(frames)):
        frames[number] = next(pictures)
    return frames


def _pictures(
    decoded: Iterator[tuple[VideoFrame, ToRgb]], stream: VideoStream, bucket: Bucket, crop: Box
) -> Iterator[NDArray[np.uint8]]:
    """Yield each frame rotated, cropped and resized: uint8 [H, W, 3]. A repeated frame is resized once."""
    last, picture = None, np.empty((0, 0, 3), np.uint8)
    for frame, to_rgb in decoded:
        if frame is not last:
            last, picture = frame, rotate_crop_resize(frame, stream, bucket.height, bucket.width, crop, to_rgb)
        yield picture


# ---- which parts of the video to decode


@dataclass(frozen=True)
class _Run:
    """Windows of F frames that are decoded without a gap, from an entry on, or from the start of the video."""

    entry: Entry | None
    num_frames: int  # F
    starts: list[int] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.starts[-1] + self.num_frames

    @property
    def numbers(self) -> list[int]:
        """Frames that are in a window, ascending."""
        return list(dict.fromkeys(number for start in self.starts for number in range(start, start + self.num_frames)))


def _runs(path: Path, starts: Sequence[int], num_frames: int, rate: float, *, seek: bool) -> list[_Run]:
    """Cut windows into runs: a new one begins at an entry with at least `MIN_SKIPPED` frames to skip before it."""
    if not seek:
        return [_Run(None, num_frames, list(starts))]
    with opened(path) as (container, stream):
        decoded_per_frame = float(stream.average_rate or 0) / rate if rate else 1.0
        tick = tick_s(stream)

        def num_skipped(stop: int, place: float) -> float:
            return (place - stop) * decoded_per_frame

        def in_time(entry: Entry, start: int) -> bool:
            return entry.shown_s - tick <= start / rate if rate else entry.frame <= start

        stops = [0, *(start + num_frames for start in starts)]
        entries: list[Entry] = []
        if any(num_skipped(stop, start) >= MIN_SKIPPED for stop, start in zip(stops, starts, strict=False)):
            entries = find_entries(container, stream, lambda entry: in_time(entry, starts[-1]))
    runs, waiting = [_Run(None, num_frames)], deque(entries)
    entry: Entry | None = None  # the last that is in time
    for stop, start in zip(stops, starts, strict=False):
        while waiting and in_time(waiting[0], start):
            entry = waiting.popleft()
        if entry and num_skipped(stop, entry.shown_s * rate if rate else entry.frame) >= MIN_SKIPPED:
            runs.append(_Run(entry, num_frames))
        runs[-1].starts.append(start)
    return [run for run in runs if run.starts]


# ---- decoding


class _Packets:
    """The packets of a video, read once, for one decoder after the other."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._rest = enumerate(container.demux(stream))
        self._first: list[tuple[int, Packet[VideoStream]]] = []
        self._num_read = 0

    def up_to(self, entry: Entry | None) -> Iterator["tuple[int, Packet[VideoStream]]"]:
        """Yield (number, packet) for a decoder that begins at `entry`: the first of all, then what was not read yet.

        Raises:
            NotExact: the decoder before this one has taken the entry's packet.
        """
        if entry is not None and self._num_read > entry.frame:
            raise NotExact
        return chain(self._first, self._read())

    def _read(self) -> Iterator["tuple[int, Packet[VideoStream]]"]:
        for number, packet in self._rest:
            self._num_read = number + 1
            if number == 0:
                self._first = [(number, packet)]
            yield number, packet


def _decoded(
    path: Path, packets: _Packets, run: _Run, stream: VideoStream, rate: float, treatment: str
) -> Iterator[tuple[VideoFrame, ToRgb]]:
    """Yield the frame for each of the run's numbers, by a decoder of its own, and what makes RGB of it."""
    entry = run.entry
    with opened(path) as (_, decoder):
        treated = Treated(decoder, treatment)
        if entry is None:
            decoded = treated.frames(_from_start(packets.up_to(None), decoder))
        else:
            decoded = _vouched(frames_from(packets.up_to(entry), decoder, entry))
        if rate:
            times = [number / rate for number in run.numbers]
            chosen = shown_at(timed(decoded, stream, entry.first_s if entry else None), stream, times)
        else:
            chosen = _numbered(decoded, entry.frame if entry else 0, run.numbers)
        for frame in chosen:
            yield frame, treated.rgb


def _numbered(decoded: Iterator[VideoFrame], first: int, numbers: Sequence[int]) -> Iterator[VideoFrame]:
    """Yield the frames of these numbers, ascending, of which `first` is decoded first."""
    wanted = set(numbers)
    for number, frame in enumerate(decoded, first):
        if number in wanted:
            yield frame
        if number == numbers[-1]:
            return
    raise NotExact


def _from_start(packets: Iterator["tuple[int, Packet[VideoStream]]"], decoder: VideoStream) -> Iterator[VideoFrame]:
    """Yield a video's frames; h264 with any damage raises.

    Decord, PyAV and a decoder that begins later make other pictures of that, and may count otherwise. Videos in other
    codecs are read in one way only, and their frames up to damage are these.
    """
    if decoder.codec_context.codec.canonical_name == "h264":
        yield from frames_from(packets, decoder, None)
    else:
        for _, packet in packets:
            yield from decoder.decode(packet)


def _vouched(decoded: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield frames from an entry on, each after what `decode_behind` asks for was decoded behind it."""
    waiting: deque[VideoFrame] = deque()
    for frame in decoded:
        waiting.append(frame)
        if len(waiting) > NUM_BEHIND:
            yield waiting.popleft()
    yield from waiting
