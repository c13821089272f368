"""Videos of many codecs, long enough for windows deep in them: ffmpeg's options, and what is expected of each."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.torture_files import FFMPEG

NUM_FRAMES, GOP, FPS = 190, 30, 16
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3"]
VARYING = [
    "-vf",
    "setpts=(N+3*gte(N\\,50)+0.4*mod(N\\,2))/16/TB",
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "1/1000",
]

# name of the file: ffmpeg's options, and whether a window deep in it is decoded from an entry on
FILMS: dict[str, tuple[list[str], bool]] = {
    "h264.mp4": (X264, True),
    "h264.mov": ([*X264, "-pix_fmt", "yuv422p10le"], True),
    "h264.mkv": ([*X264, "-pix_fmt", "yuv444p"], True),
    "h264_fragments.mp4": ([*X264, "-movflags", "frag_keyframe+empty_moov"], True),
    "h264_no_edit_list.mp4": ([*X264, "-use_editlist", "0"], True),
    "h264_pyramid.mp4": ([*X264, "-preset", "medium", "-bf", "7"], True),
    "h264_varying.mp4": ([*X264, *VARYING], True),
    "h264_wide_pixels.mp4": ([*X264, "-aspect", "2"], True),
    "h264_open_gop.mkv": ([*X264, "-x264-params", "open-gop=1"], False),
    "h264_varying.mkv": ([*X264, *VARYING], False),
    "h264_interlaced.mp4": ([*X264, "-flags", "+ilme+ildct"], False),
    "h264.ts": (X264, False),
    "h264.avi": ([*X264, "-bf", "0"], False),
    "hevc.mp4": (["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:pools=1"], False),
    "vp9.webm": (["-c:v", "libvpx-vp9", "-b:v", "80k", "-deadline", "realtime", "-cpu-used", "8"], False),
    "av1.mp4": (["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8"], False),
    "mpeg4.mp4": (["-c:v", "mpeg4", "-bf", "2"], False),
}
TONE = ["-f", "lavfi", "-i", "sine=duration=12", "-c:a", "aac"]
# the same of h264.mp4, not encoded again: options before and behind the input
REMUXED: dict[str, tuple[tuple[list[str], list[str]], bool]] = {
    "h264_turned.mp4": ((["-display_rotation", "90"], []), True),
    "h264_turned.mkv": ((["-display_rotation", "90"], []), True),
    "h264_trimmed.mp4": ((["-ss", "0.4"], []), False),
    "h264_with_sound.mkv": (([], TONE), True),
}

# of each kind one is read by default, the others with `-m slow`
BY_DEFAULT = {"h264.mp4", "h264.mkv", "h264_varying.mp4", "h264_open_gop.mkv", "hevc.mp4"}
BY_DEFAULT |= {"h264_turned.mp4", "h264_trimmed.mp4"}


def some(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow(group="seek")) for name in names]


def make_long_video(folder: Path, name: str) -> Path:
    """Make one of FILMS or REMUXED, 64x48, unless it is there."""
    path = folder / name
    if path.exists():
        return path
    if name in FILMS:
        source = ["-f", "lavfi", "-i", f"testsrc2=size=64x48:rate={FPS},noise=alls=12:allf=t"]
        ends = ["-frames:v", str(NUM_FRAMES), "-g", str(GOP), "-keyint_min", str(GOP), "-threads", "1"]
        how = FILMS[name][0]
        command = [*source, *ends, *how, *([] if "-pix_fmt" in how else ["-pix_fmt", "yuv420p"])]
    else:
        before, behind = REMUXED[name][0]
        command = [*before, "-i", str(make_long_video(folder, "h264.mp4")), *behind, "-c:v", "copy"]
    subprocess.run([*FFMPEG, *command, str(path)], check=True)
    return path
