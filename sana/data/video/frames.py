"""Decode frames of a video by number: with decord where its frames equal PyAV's, with PyAV for every other file.

`sana.data.video.decode_by_time` decodes frames by presentation time.

Shapes in this module: F frames, H height, W width (pixels). Frame k is the k-th frame that a player would show,
whichever other frames are read with it, and by whichever decoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av  # before decord: the symbols of decord's libav are global and would replace PyAV's
import decord
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana.bucket import Bucket
from sana.data.video.bitstream.h264_seek import MIN_SKIPPED, NotExact, decode_behind, find_entry, frames_from
from sana.data.video.decode_by_time import read_times
from sana.data.video.still import still_frame
from sana.data.video.treatment import Treated, may_seek
from sana.data.video.video import (
    MP4,
    Box,
    ClipRejected,
    crop_and_resize,
    opened,
    rgb,
    rotate_crop_resize,
    rotation_deg,
    sample_aspect,
)

# a bad file is reported once, as a ClipRejected, by PyAV
decord.logging.set_level(decord.logging.QUIET)

# errors that decord raises, in C++ and in Python, for files that it cannot read to the end
_DECORD_ERRORS = (
    decord.DECORDError,
    decord.DECORDLimitReachedError,
    RuntimeError,
    AssertionError,
    StopIteration,
    UnicodeEncodeError,  # a file name that is not UTF-8
)
_DECORD_CONTAINERS = (MP4, "matroska,webm")  # it loses frames of MPEG-TS and AVI while it opens them
_MAX_PROMISED = 1_000_000  # frames stated by a header, by rate and duration: 40 MiB of decord's index
_MAX_AHEAD_BYTES = 256 * 2**20  # decord's thread may decode the whole file before its first frame is taken


def read_window(path: Path, window: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a sample as its SAMPLE_KEY_COLUMNS say: uint8 [F, H, W, 3], RGB. Raises what `read_frames` does."""
    bucket = Bucket.parse(window["bucket"])
    crop = (window["crop_left"], window["crop_top"], window["crop_width"], window["crop_height"])
    if bucket.num_frames == 1 and (picture := still_frame(path)) is not None:
        return crop_and_resize(picture, 1.0, bucket.height, bucket.width, crop)[None]
    size, treatment = {"height": bucket.height, "width": bucket.width}, window["treatment"]
    frames = range(window["start_frame"], window["start_frame"] + bucket.num_frames)
    if rate := window["window_fps"]:
        return read_times(path, [frame / rate for frame in frames], **size, crop=crop, treatment=treatment)
    return read_frames(path, frames, **size, crop=crop, treatment=treatment)


def read_frames(
    path: Path,
    frame_indices: Sequence[int],
    *,
    height: int,
    width: int,
    crop: Box | None = None,
    treatment: str = "",
) -> NDArray[np.uint8]:
    """Decode the frames asked for, in the order asked: uint8 [F, H, W, 3], RGB.

    Each is rotated upright; its part `crop`, in display pixels (square, upright), is scaled to height x width
    in one antialiased (bicubic) resample. Without `crop`: the largest centred part of the target's shape. The file
    is decoded from its start to the last index, or, where `h264_seek` guarantees the same frames, from the last entry
    before the first index. `treatment` is one of TREATMENTS: what is done to fields and colours before that. Besides
    the result at most `_MAX_AHEAD_BYTES` of frames are in memory.

    Raises:
        ClipRejected: empty, unreadable, no_video, color, or truncated (the last index is beyond what decodes).
        OSError: the file is missing or the disk failed.
        ValueError: no index, a negative one, or a size that is not positive.
    """
    if not frame_indices or min(frame_indices) < 0 or height < 1 or width < 1:
        raise ValueError(f"read_frames needs indices >= 0 and a size >= 1, got {frame_indices!r}, {height} x {width}")
    asked = np.asarray(frame_indices)
    frames = np.empty((len(asked), height, width, 3), np.uint8)
    # decord decodes ahead in a thread, so it meets damage early or late by chance: PyAV decides on damage
    if not _read_deep(path, asked, frames, crop, treatment) and (
        treatment or not _read_with_decord(path, asked, frames, crop)  # decord knows its own conversion only
    ):
        _read_with_av(path, asked, frames, crop, treatment)
    return frames


def _read_deep(
    path: Path, asked: NDArray[np.int64], frames: NDArray[np.uint8], crop: Box | None, treatment: str
) -> bool:
    """Fill `frames` [F, H, W, 3], not decoding from the file's start; False if that is not worth it or not exact."""
    first, last, (height, width) = int(asked.min()), int(asked.max()), frames.shape[1:3]
    if first < MIN_SKIPPED or not may_seek(treatment):
        return False
    try:
        with opened(path) as (container, stream):
            entry = find_entry(container, stream, lambda entry: entry.frame <= first)
        if entry is None:
            return False
        with opened(path) as (container, stream):
            to_rgb = Treated(stream, treatment).rgb
            decoded = frames_from(enumerate(container.demux(stream)), stream, entry)
            for number, frame in enumerate(decoded, entry.frame):
                if (rows := asked == number).any():
                    frames[rows] = rotate_crop_resize(frame, stream, height, width, crop, to_rgb)
                if number == last:
                    decode_behind(decoded)
                    return True
    except (ClipRejected, NotExact):
        pass
    return False


def _read_with_decord(path: Path, asked: NDArray[np.int64], frames: NDArray[np.uint8], crop: Box | None) -> bool:
    """Fill `frames` [F, H, W, 3] with decord; False if it might not read the file exactly."""
    with opened(path) as (container, stream):
        if not _may_use_decord(container, stream):
            return False
        first, num_packets = _scan_for_decord(container, stream)
    last = int(asked.max())
    if first is None or last >= num_packets:
        return False
    try:
        # without fault_tol decord silently repeats the last good frame in place of those it cannot decode
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        if len(reader) != num_packets:
            return False
        for index in range(last + 1):  # never seek or skip_frames: both land frames away after an open GOP
            picture = np.asarray(reader.next().asnumpy(), np.uint8)
            if index == 0 and not np.array_equal(picture, first):  # it starts at another frame, or has other colours
                return False
            if (rows := asked == index).any():
                frames[rows] = crop_and_resize(picture, 1.0, frames.shape[1], frames.shape[2], crop)
    except _DECORD_ERRORS:
        return False
    return True


def _may_use_decord(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the header allows decord: h264 of 8 bits, in square pixels, with one sequence parameter set.

    Other codecs: it may read damaged HEVC differently from PyAV, and it scales every frame to the first one's size,
    which VP9 and AV1 may change at any frame. More bits: it rounds differently. Pixels that are not square: it rotates
    the picture upright and does not say so. Several parameter sets: the size may change.
    """
    pixels, extradata = stream.codec_context.format, stream.codec_context.extradata or b""
    return (
        container.format.name in _DECORD_CONTAINERS
        and stream.codec_context.codec.canonical_name == "h264"
        and pixels is not None
        and all(component.bits == 8 for component in pixels.components)
        and sample_aspect(stream) == 1
        and len(extradata) > 5
        and extradata[0] == 1  # an avcC box: packets are NAL units, each after its length
        and extradata[5] & 31 == 1
    )


def _scan_for_decord(container: InputContainer, stream: VideoStream) -> tuple[NDArray[np.uint8] | None, int]:
    """Return (the first frame, upright, or None if decord must not be used; the number of packets, counted undecoded).

    It must not if an edit list trims (decord shows trimmed frames), if the size may change in the middle, if anything
    is damaged, if the header states another number of frames, or if the frames might fill the memory.
    """
    num_packets, first, context = 0, None, stream.codec_context
    extradata, frame_bytes = context.extradata or b"", 3 * context.width * context.height
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None:  # PyAV's mark for the end of the stream
                break
            num_packets += 1
            resized = any(unit not in extradata for unit in _parameter_sets(bytes(packet), (extradata[4] & 3) + 1))
            resized = resized or packet.has_sidedata("new_extradata")
            if resized or packet.is_corrupt or packet.is_discard or num_packets * frame_bytes > _MAX_AHEAD_BYTES:
                return None, num_packets
            if first is None:
                first = next(iter(stream.decode(packet)), None)
        if first is None:
            first = next(iter(stream.decode(None)), None)
    except (av.FFmpegError, IndexError):  # maybe long after the last frame asked for: PyAV decides
        return None, num_packets
    # decord allocates memory for all frames stated, and aborts the process if that fails
    promised = (stream.average_rate or 0) * Fraction(container.duration or 0, 1_000_000)
    if first is None or (stream.frames != num_packets if stream.frames else promised > _MAX_PROMISED):
        return None, num_packets
    return np.rot90(rgb(first), rotation_deg(first) // 90), num_packets


def _parameter_sets(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the h264 sequence parameter sets in a packet: each may change the size of the frames after it."""
    start = length_bytes
    while start < len(packet):
        end = start + int.from_bytes(packet[start - length_bytes : start])
        if packet[start] & 31 == 7:
            yield packet[start:end]
        start = end + length_bytes


def _read_with_av(
    path: Path, asked: NDArray[np.int64], frames: NDArray[np.uint8], crop: Box | None, treatment: str
) -> None:
    """Fill `frames` [F, H, W, 3].

    Raises:
        ClipRejected: what `opened` raises, and truncated: damage, or the end, before the last frame asked for.
    """
    num_decoded, last, problem, (height, width) = 0, asked.max(), "the stream ends", frames.shape[1:3]
    with opened(path) as (container, stream):
        treated = Treated(stream, treatment)
        try:
            for frame in treated.frames(container.decode(stream)):
                if (rows := asked == num_decoded).any():
                    frames[rows] = rotate_crop_resize(frame, stream, height, width, crop, treated.rgb)
                num_decoded += 1
                if num_decoded > last:
                    return
        except av.error.InvalidDataError as error:
            problem = str(error.strerror)
    raise ClipRejected("truncated", f"{num_decoded} frames decode, {last + 1} are needed: {problem}")
