"""Tone mapping: PQ and HLG to SDR BT.709, as ffmpeg's chain of zscale and tonemap does it, by a 3-D lookup table.

    zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709

The curves are zimg's: display-referred, HLG with its gamma of 1.2 per channel, BT.709 as a pure power of 1/2.4. In that
chain the signal's peak is 1000 nits whatever metadata say (zscale drops them). libav applies the table, interpolated in
tetrahedra: its arithmetic is float32, so another kind of CPU may round a value the other way.

Shapes in this module: H height, W width (pixels), N nodes of the table along each axis.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEVEL = 8
_NODES = _LEVEL**2  # N: a Hald image of level L is L**3 pixels square and holds a table of L**2 nodes an axis
RGB_FLOAT = "gbrpf32le"
_PLANES = (1, 2, 0)  # RGB channel of each plane
_TIME_BASE = Fraction(1, 1000)  # of numbers that only ascend
_NITS_OF_ONE = 100.0  # linear light of 1, npl
_PEAK = 10.0  # of the signal, linear light
_DARKEST = 1e-6  # a signal below it is not scaled further
_WHITE = (0.3127, 0.3290)  # D65
_GAMMA = 2.4  # BT.1886

# x and y of red, green and blue; all have the white point D65
PRIMARIES = {
    "bt709": (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    "bt2020": (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    "smpte432": (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    "smpte170m": (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    "smpte240m": (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    "bt470bg": (0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    "ebu3213": (0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}


def _pq_light(code: Floats) -> Floats:
    """SMPTE ST 2084: linear light of a value in [0, 1], in units of 100 nits."""
    power = code ** (1 / 78.84375)
    light: Floats = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return light ** (1 / 0.1593017578125) * (10_000 / _NITS_OF_ONE)


def _hlg_light(code: Floats) -> Floats:
    """ARIB STD-B67 on a display of 1000 nits: linear light of a value in [0, 1], in units of 100 nits."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    light: Floats = scene**1.2 * (1000 / _NITS_OF_ONE)
    return light


_LIGHT: dict[str, Callable[[Floats], Floats]] = {"pq": _pq_light, "hlg": _hlg_light}


def _xyz_of(primaries: str) -> Floats:
    """Return the matrix from linear RGB of these primaries to CIE XYZ: float64 [3, 3]."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in np.reshape(PRIMARIES[primaries], (3, 2))]).T
    white = np.array((_WHITE[0] / _WHITE[1], 1, (1 - sum(_WHITE)) / _WHITE[1]))
    scaled: Floats = columns * np.linalg.solve(columns, white)
    return scaled


def _hable(light: Floats) -> Floats:
    return (light * (light * 0.15 + 0.05) + 0.004) / (light * (light * 0.15 + 0.5) + 0.06) - 0.02 / 0.3


def tone_map(codes: Floats, transfer: str, primaries: str) -> Floats:
    """Convert RGB [..., 3], coded by `pq` or `hlg` with black 0 and white 1, to BT.709 [..., 3] in [0, 1]."""
    to_709 = np.linalg.inv(_xyz_of("bt709")) @ _xyz_of(primaries)
    light = _LIGHT[transfer](codes) @ to_709.T
    signal = np.maximum(light.max(axis=-1, keepdims=True), _DARKEST)
    light *= _hable(signal) / _hable(np.array(_PEAK)) / signal
    mapped: Floats = np.clip(light, 0, 1) ** (1 / _GAMMA)
    return mapped


@cache
def _table(transfer: str, primaries: str, white: float) -> VideoFrame:
    """Return the table as a Hald image, red the fastest; its values are 255 v + 1/2, for truncation to round."""
    axis = np.arange(_NODES) / (_NODES - 1) / white
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    values = tone_map(np.stack([red, green, blue], axis=-1), transfer, primaries) * 255 + 0.5
    side = _LEVEL**3
    image = VideoFrame(side, side, RGB_FLOAT)
    for plane, channel in zip(image.planes, _PLANES, strict=True):
        rows = np.zeros((side, plane.line_size // 4), np.float32)
        rows[:, :side] = values[..., channel].reshape(side, side)
        plane.update(rows.tobytes())
    image.pts = 0
    return image


class ToneMapper:
    """Tone-maps frames of one size and format: each to uint8 [H, W, 3]."""

    def __init__(self, like: VideoFrame, transfer: str, primaries: str, *, white: float, scale: str = "") -> None:
        """`like` is a first frame. `scale`: arguments of libav's scaler, which makes RGB of frames that are not.

        `white` is the value of white in that RGB.
        """
        self._graph, self._num_mapped = Graph(), 0
        self._graph.threads = 1
        side = _LEVEL**3
        last = self._graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=_TIME_BASE)
        table = self._graph.add_buffer(width=side, height=side, format=VideoFormat(RGB_FLOAT), time_base=_TIME_BASE)
        lookup, sink = self._graph.add("haldclut", "interp=tetrahedral:clut=first"), self._graph.add("buffersink")
        for name, arguments in (("scale", scale), ("format", RGB_FLOAT)) if scale else ():
            added = self._graph.add(name, arguments)
            last.link_to(added)
            last = added
        last.link_to(lookup, 0, 0)
        table.link_to(lookup, 0, 1)
        lookup.link_to(sink)
        self._graph.configure()
        self._graph.vpush(_table(transfer, primaries, white), at=1)
        self._graph.vpush(None, at=1)

    def map(self, coded: VideoFrame) -> NDArray[np.uint8]:
        """Tone-map a frame like the first; its time is overwritten."""
        coded.pts, coded.time_base = self._num_mapped, _TIME_BASE
        self._num_mapped += 1
        self._graph.vpush(coded, at=0)
        mapped = self._graph.vpull()
        picture = np.empty((mapped.height, mapped.width, 3), np.uint8)
        for plane, channel in zip(mapped.planes, _PLANES, strict=True):
            rows = np.frombuffer(memoryview(plane), np.float32).reshape(mapped.height, plane.line_size // 4)
            picture[..., channel] = rows[:, : mapped.width]
        return picture
