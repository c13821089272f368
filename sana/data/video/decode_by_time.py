"""Decode frames of a video by presentation time: the frames that a player would show, at any rate.

Shapes in this module: F frames, H height, W width (pixels).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana.data.video.bitstream.h264_seek import MIN_SKIPPED, NotExact, decode_behind, find_entry, frames_from
from sana.data.video.treatment import Treated, may_seek
from sana.data.video.video import Box, ClipRejected, ToRgb, opened, rotate_crop_resize

_MAX_TICK_S = 0.001  # timestamps are rounded by a container's tick, which in some (AVI) is a whole frame

Timed = Iterator[tuple[VideoFrame, float]]  # a frame, and when it is first shown, seconds after the first frame


def read_times(
    path: Path, times_s: Sequence[float], *, height: int, width: int, crop: Box | None = None, treatment: str = ""
) -> NDArray[np.uint8]:
    """Decode what a player shows at each of `times_s`, seconds after the first frame: uint8 [F, H, W, 3], RGB.

    A frame is shown from its own timestamp until that of the next, whatever the file's rate: slow files repeat frames,
    fast ones skip some. Decoding stops at the first frame after the last time, and begins where that of `read_frames`
    does; one frame is held in memory. `crop`, the resample and the treatment are those of `read_frames`.

    Raises:
        ClipRejected: empty, unreadable, no_video, color, or truncated (no frame is shown at the last time).
        OSError: the file is missing or the disk failed.
        ValueError: no time, a negative one, times that do not ascend, or a size that is not positive.
    """
    times = np.asarray(times_s, np.float64)
    if not len(times) or times[0] < 0 or (np.diff(times) < 0).any() or height < 1 or width < 1:
        raise ValueError(f"read_times needs ascending times >= 0 and a size >= 1, got {times_s!r}, {height} x {width}")
    frames = np.empty((len(times), height, width, 3), np.uint8)
    if not _show_deep(path, times, frames, crop, treatment):
        with opened(path) as (container, stream):
            treated = Treated(stream, treatment)
            decoded = timed(treated.frames(container.decode(stream)), stream)
            _fill(shown_at(decoded, stream, times), stream, frames, crop, treated.rgb)
    return frames


def _fill(
    shown: Iterator[VideoFrame], stream: VideoStream, frames: NDArray[np.uint8], crop: Box | None, to_rgb: ToRgb
) -> None:
    """Crop and resize the shown frames into `frames` [F, H, W, 3]; a repeated frame is resized once."""
    last = None
    for number, frame in enumerate(shown):
        if frame is last:
            frames[number] = frames[number - 1]
        else:
            frames[number] = rotate_crop_resize(frame, stream, frames.shape[1], frames.shape[2], crop, to_rgb)
        last = frame


def shown_at(decoded: Timed, stream: VideoStream, times: Sequence[float] | NDArray[np.float64]) -> Iterator[VideoFrame]:
    """Yield the frame that is shown at each of `times`, ascending; decoding stops at the frame after the last.

    Raises:
        ClipRejected: truncated (no frame is shown at the last time). Frames before may have been yielded.
    """
    num_shown, end_s, problem = 0, 0.0, "the stream ends"
    held: VideoFrame | None = None
    try:
        for frame, start_s in decoded:
            while held is not None and num_shown < len(times) and times[num_shown] < start_s:
                yield held
                num_shown += 1
            if num_shown == len(times):
                return
            # the tick by which it counts as shown early is no part of how long it is shown
            held, end_s = frame, start_s + tick_s(stream) + _shown_for(frame, stream)
        if held is not None and times[-1] <= end_s:
            yield from [held] * (len(times) - num_shown)
            return
    except av.error.InvalidDataError as error:
        problem = str(error.strerror)
    raise ClipRejected("truncated", f"frames last to {end_s:.3f} s, {times[-1]:.3f} s is needed: {problem}")


def _show_deep(
    path: Path, times: NDArray[np.float64], frames: NDArray[np.uint8], crop: Box | None, treatment: str
) -> bool:
    """Fill `frames` [F, H, W, 3] not decoding from the file's start; False if that is not worth it or not exact."""
    if not may_seek(treatment):
        return False
    try:
        with opened(path) as (container, stream):
            if times[0] * float(stream.average_rate or 0) < MIN_SKIPPED:
                return False
            tick = tick_s(stream)
            entry = find_entry(container, stream, lambda entry: entry.shown_s - tick <= times[0])
        if entry is None:
            return False
        with opened(path) as (container, stream):
            to_rgb = Treated(stream, treatment).rgb
            decoded = timed(frames_from(enumerate(container.demux(stream)), stream, entry), stream, entry.first_s)
            _fill(shown_at(decoded, stream, times), stream, frames, crop, to_rgb)
            decode_behind(decoded)
    except (ClipRejected, NotExact):
        return False
    return True


def timed(decoded: Iterator[VideoFrame], stream: VideoStream, first: float | None = None) -> Timed:
    """Yield each frame and when it is first shown, seconds after the first: ascending, 0 or less for the first.

    `first` is the time of the file's first frame, None if `decoded` begins with it.

    A container rounds times to its ticks, so a frame counts as shown one tick before its timestamp: at the file's own
    rate every frame is chosen once.
    """
    tick, shown_s = tick_s(stream), 0.0
    for frame in decoded:
        time = frame.time
        if time is None:  # a raw stream without timestamps: one frame after the other
            time = shown_s + _shown_for(frame, stream) if first is not None else 0.0
        first = time if first is None else first
        shown_s = max(shown_s, time - first)
        yield frame, shown_s - tick


def tick_s(stream: VideoStream) -> float:
    """Return how much a timestamp may be rounded, seconds."""
    return min(float(stream.time_base or 0), _MAX_TICK_S) + 1e-9


def _shown_for(frame: VideoFrame, stream: VideoStream) -> float:
    """Return how long a frame is shown, seconds; it matters for the last frame, which no other follows."""
    if frame.duration and stream.time_base:
        return float(frame.duration * stream.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0
