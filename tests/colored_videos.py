"""Videos of coded colours and fields, made by imageio-ffmpeg's ffmpeg, whose filters are the reference for them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 256, 144
NUM_FRAMES = 2
# what this project's tone mapping has to come to
TONE_MAP = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv"
_RAMP = f"gradients=s={WIDTH}x{HEIGHT}:r=8:x0=0:y0=0:x1={WIDTH - 1}:nb_colors=2:speed=0.00001"
CHARTS = {
    "bars": f"smptehdbars=s={WIDTH}x{HEIGHT}:r=8",
    "colours": f"testsrc2=s={WIDTH}x{HEIGHT}:r=8",
    "hues": f"colorspectrum=s={WIDTH}x{HEIGHT}:r=8",
    "grey": f"{_RAMP}:y1=0:c0=black:c1=white",
    "red": f"{_RAMP}:y1=0:c0=black:c1=red",
    "blue to yellow": f"{_RAMP}:y1={HEIGHT - 1}:c0=blue:c1=yellow",
}
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "6", "-x265-params", "log-level=error:pools=1")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "6")
VP9 = ("-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-cpu-used", "8", "-deadline", "realtime")


def ffmpeg(*arguments: str | Path) -> bytes:
    """Run ffmpeg; returns what it writes to stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-threads", "1", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make_chart(
    path: Path,
    chart: str,
    *,
    matrix: str = "unknown",
    primaries: str = "unknown",
    transfer: str = "unknown",
    levels: str = "tv",
    pixel_format: str = "yuv420p",
    coded_by: str = "bt709",
    encoder: Sequence[str] = H264,
    num_frames: int = NUM_FRAMES,
) -> Path:
    """Write a chart: coded by the matrix `coded_by`, and tagged as said."""
    filters = (
        f"scale=out_color_matrix={coded_by}:out_range={levels},format={pixel_format},"
        f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range={levels}"
    )
    source = CHARTS.get(chart, chart)
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", str(num_frames), "-vf", filters, *encoder, path)
    return path


def filtered(path: Path, filters: str, *, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Return a video's frames after ffmpeg's filters: uint8 [F, H, W, 3], RGB."""
    data = ffmpeg("-i", path, "-vf", filters, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


INTERLACED = ("-flags", "+ildct+ilme")


def make_interlaced(path: Path, *, top_first: bool = True, encoder: Sequence[str] = H264, num_frames: int = 12) -> Path:
    """Write frames of two fields each, woven from a moving picture of twice the rate."""
    scan, order = ("tff", "tt") if top_first else ("bff", "bb")
    source, weave = CHARTS["colours"].replace("r=8", "r=50"), f"interlace=scan={scan}"
    ffmpeg(
        "-f", "lavfi", "-i", source, "-frames:v", str(num_frames), "-vf", weave, *encoder, "-pix_fmt", "yuv420p",
        *INTERLACED, "-field_order", order, path,
    )  # fmt: skip
    return path
