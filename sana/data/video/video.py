"""Videos: open a file, crop and resize a frame, write frames to a file.

`sana.data.video.probe` reads a file's facts, `sana.data.video.frames` and `sana.data.video.decode_by_time` its frames.

Shapes in this module: F frames, H height, W width (pixels). A file that cannot be used raises `ClipRejected`; a
disk that cannot be read raises `OSError`, which is not the clip's fault and may be retried.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from sana.data import decoder_log
from sana.data.file_heads import head_of, what_it_is

# A bad file is reported once, as a ClipRejected; what libav says of it is one line of the log, with its name.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # else the count of repeats comes with the next file's first line
decoder_log.install()

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # as libavformat names it
_LISTS_OF_FILES = ("concat", "dash", "hls", "imf", "sdp")  # their files may lie anywhere
_STILL_BRANDS = ("avif", "heic", "heix", "mif1")
_ALMOST_SQUARE = Fraction(1, 100)  # no pixel shape in use is this near to square: the nearest is 16:15
RESERVED_MATRIX = 3  # of AVCOL_SPC: no matrix, which some encoders write
_BT601 = 5  # AVCOL_SPC_BT470BG
_BT709 = 1  # AVCOL_SPC_BT709, and the same number for its primaries and its transfer curve

Box = tuple[float, float, float, float]  # left, top, width, height
ToRgb = Callable[[VideoFrame], NDArray[np.uint8]]  # a frame to uint8 [H, W, 3]


class ClipRejected(Exception):  # noqa: N818  an outcome, not an error
    """A clip cannot be used: `reason` is one word of a closed list, `detail` the numbers, without any path.

    Here: empty (zero bytes), unreadable (the container or the codec cannot be opened), no_video (no video stream),
    truncated (fewer frames than the header states or the caller needs), color (a coding of colours that nothing here
    converts). Workers add killed_worker.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def to_pixels(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert uint8 [F, H, W, 3] into the model's float32 [3, F, H, W] in [-1, 1]: x / 127.5 - 1."""
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
        context.thread_count = 1  # x264 divides its work, hence its bytes, by the number of threads
        # tagged, because players guess the colours of an untagged file by its size
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # AVCOL_RANGE_MPEG
        for image in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT709, threads=1)))
        container.mux(stream.encode())


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file at its main video stream; libav's errors of a bad file become `ClipRejected`."""
    if path.stat().st_size == 0:
        raise ClipRejected("empty", "0 bytes")
    try:
        # absolute, or libav takes "a:b.mp4" for a protocol; "replace", or a bad letter in a title is an error
        with (
            decoder_log.complaints_of(path),
            av.open(str(path.absolute()), metadata_errors="replace") as container,
        ):
            stream = container.streams.best("video")
            _check_container(container, path)
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                kinds = [other.type for other in container.streams]
                detail = what_it_is(head_of(path), "a video") or f"no moving picture among {kinds}"
                raise ClipRejected("no_video" if kinds else "unreadable", detail)
            if stream.codec_context is None:
                raise ClipRejected("unreadable", "no decoder for the video's codec")
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(
            error, OSError
        ):  # a disk failure? libav also reports damaged clips as "I/O error" or "not permitted"
            with path.open("rb") as file:
                while file.read(1 << 20):  # a failing disk raises OSError here too
                    pass
        raise ClipRejected("unreadable", what_it_is(head_of(path), "a video") or str(error.strerror)) from error
    except IndexError as error:  # PyAV 18, when a stream appears in the middle of a damaged MPEG-TS
        raise ClipRejected("unreadable", "a stream appears in the middle of the file") from error


def _check_container(container: InputContainer, path: Path) -> None:
    """Reject what libav opens beside videos: pictures, and lists of other files.

    Raises:
        ClipRejected: no_video, or unreadable.
    """
    name = container.format.name
    if name in _LISTS_OF_FILES:
        raise ClipRejected("unreadable", f"it is a list of other files ({name}), not a video")
    if name.endswith("_pipe") or name == "image2" or container.metadata.get("major_brand") in _STILL_BRANDS:
        raise ClipRejected(
            "no_video", what_it_is(head_of(path), "a video") or f"it is a still image ({name}), not a video"
        )


def sample_aspect(stream: VideoStream) -> float:
    """Return width over height of one pixel; 1 if within a percent of square, as tools leave it that round a size.

    ffmpeg's `scale=854:480,crop=832:480` states 1280:1281, by which 832 stored pixels would be 831 on display.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)  # 0 or None: not stated
    return 1.0 if abs(aspect - 1) <= _ALMOST_SQUARE else float(aspect)


def rotation_deg(frame: VideoFrame) -> int:
    """Return the degrees counter-clockwise that bring a stored frame upright: 0, 90, 180 or 270."""
    return int(frame.rotation / 90 + 4.5) % 4 * 90


def rgb(frame: VideoFrame, *, matrix: int | None = None) -> NDArray[np.uint8]:
    """Return a frame as it is stored: uint8 [H, W, 3]. `matrix`: libavutil's number, None for what the frame says.

    BT.601 is read where the frame says nothing.

    Raises:
        ClipRejected: color (libav does not know this matrix).
    """
    if matrix is None and frame.colorspace == RESERVED_MATRIX:
        matrix = _BT601
    try:
        return np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=matrix, threads=1), np.uint8)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise ClipRejected("color", f"matrix {frame.colorspace} of its colours is not supported") from error


def rotate_crop_resize(
    frame: VideoFrame, stream: VideoStream, height: int, width: int, crop: Box | None, to_rgb: ToRgb = rgb
) -> NDArray[np.uint8]:
    """Rotate a frame upright, crop it and resize the crop to height x width: uint8 [H, W, 3]."""
    degrees, aspect = rotation_deg(frame), sample_aspect(stream)
    picture = np.rot90(to_rgb(frame), degrees // 90)
    return crop_and_resize(picture, 1 / aspect if degrees in (90, 270) else aspect, height, width, crop)


def crop_and_resize(
    picture: NDArray[np.uint8], aspect: float, height: int, width: int, crop: Box | None
) -> NDArray[np.uint8]:
    """Resize a crop of a picture to height x width: uint8 [H, W, 3].

    `crop` is in square display pixels, None for the largest centred one of the target's shape; `aspect` is width over
    height of a stored pixel.
    """
    source_height, source_width = picture.shape[:2]
    if crop is None:
        scale = min(source_height / height, source_width * aspect / width)  # source rows per target row
        crop_width, crop_height = width * scale, height * scale
        left, top = (source_width * aspect - crop_width) / 2, (source_height - crop_height) / 2
    else:
        left, top, crop_width, crop_height = crop
    # the display size is rounded to whole pixels, so a box may exceed it by a fraction of one
    edges = (left / aspect, top, (left + crop_width) / aspect, top + crop_height)
    limits = (source_width, source_height, source_width, source_height)
    box = tuple(min(max(0.0, edge), float(limit)) for edge, limit in zip(edges, limits, strict=True))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box=box))
