"""Small real videos for the tests: every frame shows its own number, so that a test knows which one it got."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sana.data.video.video import ClipRejected

BITS = 8  # frame numbers below 256, in a grid of 2 rows x 4 columns of gray blocks
DARK, LIGHT = 48, 208


def picture(index: int, *, width: int, height: int) -> np.ndarray:
    """Draw frame `index`: uint8 [H, W, 3]. Blocks show its bits, a red bar is at the top."""
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 4 // width
    blocks = np.array(bits).reshape(2, 4)[rows][:, columns]
    image = np.where(blocks[..., None] == 1, LIGHT, DARK).astype(np.uint8).repeat(3, axis=2)
    image[: height // 16] = (200, 40, 40)
    return image


def number(frame: np.ndarray) -> int:
    """Read the frame number back from `picture`, after any codec and any resize that kept the aspect ratio."""
    height, width = frame.shape[:2]
    bits = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        y, x = int((row + 0.5) * height / 2), int((column + 0.5) * width / 4)
        block = frame[y - height // 16 : y + height // 16 + 1, x - width // 32 : x + width // 32 + 1]
        bits |= int(block.mean() > (DARK + LIGHT) / 2) << bit
    return bits


def numbers(frames: Iterable[NDArray[np.uint8]]) -> list[int]:
    """Read the number of each frame."""
    return [number(frame) for frame in frames]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two images, dB; infinite if they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def decode_all(path: Path) -> list[NDArray[np.uint8]]:
    """Decode every frame, in order, with PyAV: the reference. uint8 [H, W, 3] each."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def rejection(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Call a function that must reject the clip with a detail; returns the reason."""
    with pytest.raises(ClipRejected) as caught:
        call(*args, **options)
    assert caught.value.detail and str(caught.value).startswith(caught.value.reason)
    return caught.value.reason


def make_video(
    path: Path,
    *,
    num_frames: int = 25,
    width: int = 96,
    height: int = 64,
    fps: int | Fraction = 16,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    sar: Fraction | None = None,
    bframes: int | None = None,
    gop: int = 12,
    first_pts: int = 0,
    audio: bool = False,
    faststart: bool = False,
    container: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    tagged: str | None = None,
) -> Path:
    """Write frames `picture(0)` ... `picture(num_frames - 1)`; the container follows the file's ending.

    `rotation` is the display rotation in degrees counter-clockwise (what a phone writes), `sar` the width of a
    pixel over its height, `first_pts` the first timestamp in frames, `container` the muxer's options.
    """
    options = dict(codec_options or {})
    if codec == "libx264":
        options |= {"crf": "12", "preset": "ultrafast" if not bframes else "veryfast"}
    if codec == "libx265":
        options |= {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=none:pools=1"}
    if codec == "libvpx-vp9":
        options |= {"crf": "12", "b": "0", "cpu-used": "8", "deadline": "realtime"}
    if bframes is not None:
        options["bf"] = str(bframes)
    muxer = ({"movflags": "+faststart"} if faststart else {}) | (container or {})
    with av.open(str(path), "w", options=muxer) as out:
        stream: Any = out.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, pixel_format, gop
        stream.codec_context.thread_count = 1
        stream.time_base = 1 / Fraction(fps)
        if codec in ("mpeg4", "mjpeg"):
            stream.bit_rate = 4_000_000
        if sar is not None:
            stream.sample_aspect_ratio = sar
        if tagged == "bt709":
            stream.codec_context.colorspace = 1
        if rotation:
            stream.set_display_rotation(rotation)
        audio_stream: Any = out.add_stream("aac", rate=16000, layout="mono") if audio else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width=width, height=height), format="rgb24")
            if tagged == "bt709":
                frame = frame.reformat(format=pixel_format, dst_colorspace="ITU709")
            frame.pts, frame.time_base = first_pts + index, 1 / Fraction(fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if audio_stream is not None:
            _write_silence(out, audio_stream, seconds=num_frames / float(fps))
    return path


def blank_packet(path: Path, index: int) -> None:
    """Damage a video: write 600 zeros over packet `index` and what follows it."""
    with av.open(str(path)) as container:
        at = [packet.pos or 0 for packet in container.demux(video=0)][index]
    data = bytearray(path.read_bytes())
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)


def memory_grown_mib(path: Path, read: str, *, before: str = "") -> int:
    """Run `before`, then `read`, both code on `path`, in a new process; returns the growth of its peak memory, MiB."""
    code = (
        "import resource, sys; from pathlib import Path; from sana.data.video.frames import read_frames, read_times\n"
        f"path = Path(sys.argv[1])\n{before}\n"
        "start_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{read}\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start_kib) // 1024)"
    )
    return int(subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True).stdout)


def make_audio(path: Path, *, seconds: float = 1.0) -> Path:
    """Write a file with audio and no video."""
    with av.open(str(path), "w") as out:
        _write_silence(out, out.add_stream("aac", rate=16000, layout="mono"), seconds=seconds)
    return path


def _write_silence(out: Any, stream: Any, *, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
