"""Videos: what a file holds, and a file from frames. `sana.data.frames` reads the frames of one.

Shapes in this module: F frames, H height, W width (pixels). A file that cannot be used is a `ClipRefused`; a disk
that cannot be read is an `OSError`, which is not the clip's fault and worth another try.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

# A bad file is reported once, as a ClipRefused: libav's own lines name no clip and flood a worker's log.
av.logging.set_libav_level(-8)  # AV_LOG_QUIET

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # as libavformat names it
_MAX_RATE_ERROR = 0.01  # a header's frame rate is believed if the timestamps agree this well
_BT709 = 1  # AVCOL_SPC_BT709, and the same number for its primaries and its transfer curve


class ClipRefused(Exception):  # noqa: N818  an outcome, not an error
    """A clip cannot be used: `reason` is one word of a closed list, `detail` the numbers, without any path.

    Here: empty (zero bytes), unreadable (the container or the codec cannot be opened), no_video (no moving picture),
    truncated (fewer frames than the header, or the caller, counts on). Bucketing adds too_short and too_small.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are decoded.

    `width` and `height` are the size on display: the stored size, its width times `sample_aspect` (width over height
    of one pixel), then turned by `rotation_deg` (0, 90, 180 or 270, counter-clockwise). `read_frames` sees this size.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation_deg: int
    sample_aspect: float
    fps: float  # average over the clip, frames per second
    num_frames: int  # counted, packet by packet; frames that an edit list hides are not counted
    duration_s: float  # num_frames / fps
    codec: str  # "h264", "hevc", "vp9" ...
    pixel_format: str  # "yuv420p", "yuv420p10le" ...
    bit_depth: int


def probe_video(path: Path) -> VideoInfo:
    """Read a video's facts: the header, the first frame decoded, the other packets counted but not decoded.

    Raises:
        ClipRefused: empty, unreadable, no_video or truncated.
        OSError: the file is missing or the disk failed.
    """
    num_packets, ends_broken, first = 0, False, None
    times: list[int | None] = []  # of the frames that are shown
    with opened(path) as (container, stream):
        promised = _promised_packets(container, stream)
        for packet in container.demux(stream):
            if first is None and not packet.is_corrupt:
                first = next(iter(stream.decode(packet)), None)
            if packet.size == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
                break
            num_packets, ends_broken = num_packets + 1, packet.is_corrupt
            if packet.size and not packet.is_discard:  # AVI repeats a frame by an empty packet; an edit list trims
                times.append(packet.pts)
        if not times or num_packets < promised:
            raise ClipRefused("truncated", f"{num_packets} of {promised or 'at least 1'} frames are in the file")
        if ends_broken:
            raise ClipRefused("truncated", f"the file ends inside frame {num_packets}")
        if first is None:
            raise ClipRefused("unreadable", f"none of {num_packets} packets decodes to a frame")
        return _describe(stream, first, times)


def to_pixels(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 [F, H, W, 3] into the model's float32 [3, F, H, W] in [-1, 1]: x / 127.5 - 1."""
    pixels = np.ascontiguousarray(frames.transpose(3, 0, 1, 2)).astype(np.float32)
    pixels /= np.float32(127.5)
    pixels -= np.float32(1)
    return pixels


def write_mp4(path: Path, frames: NDArray[np.uint8], *, fps: float) -> None:
    """Write uint8 [F, H, W, 3] RGB as h264 that every browser plays: the same bytes for the same frames.

    Raises:
        ValueError: not such an array, no frame, an odd height or width, or fps not above 0.
        OSError: the file cannot be written.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"write_mp4 needs uint8 frames of shape [F, H, W, 3], got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or fps <= 0:
        raise ValueError(f"write_mp4 needs an even size and fps above 0, got {height} x {width} at {fps} fps")
    rate = Fraction(fps).limit_denominator(1001)  # NTSC's 30000/1001
    with av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # x264 cuts its work, hence its bytes, by the number of threads
        # tagged, because players guess the colours of an untagged file by its size
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # AVCOL_RANGE_MPEG
        for image in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT709, threads=1)))
        container.mux(stream.encode())


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file at its main video stream; what libav says of a bad file becomes a `ClipRefused`."""
    if path.stat().st_size == 0:
        raise ClipRefused("empty", "0 bytes")
    try:
        # absolute, or libav takes "a:b.mp4" for a protocol; "replace", or a bad letter in a title is an error
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            kinds = [other.type for other in container.streams]
            if not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
                raise ClipRefused("no_video" if kinds else "unreadable", f"no moving picture among {kinds}")
            if stream.codec_context is None:
                raise ClipRefused("unreadable", "no decoder for the video's codec")
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # the disk? libav also says "I/O error" or "not permitted" of damaged clips
            with path.open("rb") as file:
                while file.read(1 << 20):  # a disk that fails does so here too
                    pass
        raise ClipRefused("unreadable", str(error.strerror)) from error
    except IndexError as error:  # PyAV 18, when a damaged MPEG-TS grows a stream on the way
        raise ClipRefused("unreadable", "a stream appears in the middle of the file") from error


def _promised_packets(container: InputContainer, stream: VideoStream) -> int:
    """How many packets the header says there are, 0 if it does not say (Matroska, fragmented MP4)."""
    if container.format.name == MP4:  # an edit list takes samples out of the index, not out of the header's count
        return min(stream.frames, len(stream.index_entries))
    return stream.frames


def _describe(stream: VideoStream, first: VideoFrame, times: list[int | None]) -> VideoInfo:
    context, aspect, turns = stream.codec_context, sample_aspect(stream), quarter_turns(first)
    if context.format is None:
        raise ClipRefused("unreadable", f"{context.width} x {context.height} pixels of unknown format")
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
        num_frames=len(times),
        duration_s=len(times) / fps,
        codec=context.codec.canonical_name,
        pixel_format=context.format.name,
        bit_depth=context.format.components[0].bits,
    )


def _frame_rate(stream: VideoStream, times: list[int | None]) -> float:
    """The header's average rate, unless the timestamps contradict it, as in recordings of a varying rate."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    known = [time for time in times if time is not None]
    span = (max(known) - min(known)) * stream.time_base if known and stream.time_base else 0
    measured = (len(known) - 1) / float(span) if span else stated
    if measured <= 0:
        raise ClipRefused("unreadable", f"no frame rate for {len(times)} frames, neither stated nor by timestamps")
    return stated if abs(stated - measured) <= _MAX_RATE_ERROR * measured else measured


def sample_aspect(stream: VideoStream) -> float:
    """Width over height of one pixel."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect else 1.0  # 0 or None: not stated


def quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns counter-clockwise, 0 to 3, that bring a stored frame upright."""
    return int(frame.rotation / 90 + 4.5) % 4
