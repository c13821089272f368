"""Treatment: how the frames of one video become RGB, by one of `TREATMENTS` (`sana/data/schemas.py`).

The bucket stage chooses it by what probe found (`sana/data/bucketing/treatments.py`). Where the frames say themselves
how their colours are coded, that holds, else the file's header, else the treatment.
"""

from collections.abc import Iterator

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana.data.schemas import TREATMENTS
from sana.data.video.deinterlace import deinterlaced
from sana.data.video.tone_map import RGB_FLOAT, ToneMapper
from sana.data.video.video import RESERVED_MATRIX, ClipRejected, rgb

# numbers of libavutil, and the names that its scaler has for matrices
_UNSTATED = (2, RESERVED_MATRIX)  # of matrices and primaries
_BT709, _BT2020 = 1, 9
_MATRICES = {0: "auto", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020"}
_PRIMARIES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 12: "smpte432", 22: "ebu3213"}
_FULL_RANGE, _LIMITED_RANGE = 2, 1
_SITED_CODECS = ("h264", "hevc")  # their 4:2:0 frames say where chroma samples are; others' are taken to be on the left


def may_seek(treatment: str) -> bool:
    """Whether a frame's picture depends on nothing but itself, wherever decoding begins."""
    return treatment in ("", "bt709", "bt2020")


class Treated:
    """What is done to the frames of one opened video, of which nothing has been decoded yet."""

    def __init__(self, stream: VideoStream, treatment: str = "") -> None:
        """Raises ValueError: not one of TREATMENTS."""
        if treatment not in TREATMENTS:
            raise ValueError(f"treatment {treatment!r} is unknown; there are {TREATMENTS}")
        fields, _, colors = treatment.rpartition("+")
        self._deinterlaces = "bwdif" in (fields, colors)
        self._colors = "" if colors == "bwdif" else colors
        context = stream.codec_context  # a decoder overwrites what the header says
        self._header = (context.colorspace, context.color_primaries, context.color_range)
        self._codec = context.codec.canonical_name
        self._mappers: dict[tuple[object, ...], ToneMapper] = {}

    def frames(self, decoded: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield whole frames, one for each that is decoded."""
        return deinterlaced(decoded) if self._deinterlaces else decoded

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a frame as it is stored, in SDR BT.709: uint8 [H, W, 3].

        Raises:
            ClipRejected: color (its matrix or primaries are not supported).
        """
        if self._colors in ("pq", "hlg"):
            return self._tone_mapped(frame)
        if self._colors and _first_stated(frame.colorspace, self._header[0]) is None:
            return rgb(frame, matrix=_BT2020 if self._colors == "bt2020" else _BT709)
        return rgb(frame)

    def _tone_mapped(self, frame: VideoFrame) -> NDArray[np.uint8]:
        matrix = _first_stated(frame.colorspace, self._header[0], _BT2020)
        number = _first_stated(frame.color_primaries, self._header[1], _BT2020)
        if matrix not in _MATRICES or number not in _PRIMARIES:
            raise ClipRejected("color", f"{self._colors} with matrix {matrix} and primaries {number} is not supported")
        primaries = _PRIMARIES[number]
        full_range = _FULL_RANGE in (frame.color_range, not frame.color_range and self._header[2])
        white, scale = _white(frame, full_range=full_range), ""
        if self._codec in _SITED_CODECS and frame.format.name.startswith("yuv420p"):
            frame = frame.reformat(
                format=RGB_FLOAT,
                src_colorspace=matrix,
                src_color_range=_FULL_RANGE if full_range else _LIMITED_RANGE,
                threads=1,
            )
        else:
            levels = "pc" if full_range else "tv"
            scale = f"flags=bilinear:in_color_matrix={_MATRICES[matrix]}:in_range={levels}:in_chroma_loc=left"
        key = (primaries, white, scale, frame.format.name, frame.width, frame.height)
        if key not in self._mappers:
            self._mappers = {key: ToneMapper(frame, self._colors, primaries, white=white, scale=scale)}
        return self._mappers[key].map(frame)


def _first_stated(*numbers: int) -> int | None:
    return next((number for number in numbers if number not in _UNSTATED), None)


def _white(frame: VideoFrame, *, full_range: bool) -> float:
    """Return what libav's scaler makes of white, of 1.0: it shifts values to 16 bits, and does not stretch them."""
    bits = frame.format.components[0].bits
    if bits > 16:  # floats
        return 1.0
    return (((1 << bits) - 1) << (16 - bits) if full_range or frame.format.is_rgb else 255 << 8) / 65535
