"""Every ending that is listed as a video's is one that is probed and decoded, frame by frame."""

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from sana.data.sources.listing import VIDEO_SUFFIXES
from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from tests.video_files import make_video, numbers

pytestmark = pytest.mark.timeout(60)

# ending -> (name of the muxer's own ending, codec, pixel format, frames per second)
H264, MPEG = ("libx264", "yuv420p", 16), ("mpeg2video", "yuv420p", 25)
FORMATS = {
    ".3g2": (".3g2", *H264),
    ".3gp": (".3gp", *H264),
    ".apng": (".apng", "apng", "rgb24", 16),
    ".asf": (".asf", "wmv2", "yuv420p", 16),
    ".avi": (".avi", "mpeg4", "yuv420p", 25),
    ".divx": (".avi", "mpeg4", "yuv420p", 25),
    ".f4v": (".f4v", *H264),
    ".flv": (".flv", "flv1", "yuv420p", 16),
    ".gif": (".gif", "gif", "rgb8", 20),
    ".ivf": (".ivf", "libvpx-vp9", "yuv420p", 16),
    ".m2t": (".ts", *H264),
    ".m2ts": (".m2ts", *H264),
    ".m4v": (".m4v", *H264),
    ".mk3d": (".mkv", *H264),
    ".mkv": (".mkv", *H264),
    ".mov": (".mov", *H264),
    ".mp4": (".mp4", *H264),
    ".mp4v": (".mp4", *H264),
    ".mpe": (".mpeg", "mpeg1video", "yuv420p", 25),
    ".mpeg": (".mpeg", "mpeg1video", "yuv420p", 25),
    ".mpg": (".mpg", *MPEG),
    ".mts": (".ts", *H264),
    ".mxf": (".mxf", *MPEG),
    ".nut": (".nut", "mpeg4", "yuv420p", 25),
    ".qt": (".mov", *H264),
    ".rm": (".rm", "rv20", "yuv420p", 16),
    ".rmvb": (".rm", "rv20", "yuv420p", 16),
    ".ts": (".ts", *H264),
    ".vob": (".vob", *MPEG),
    ".webm": (".webm", "libvpx-vp9", "yuv420p", 16),
    ".wmv": (".wmv", "wmv2", "yuv420p", 16),
    ".y4m": (".y4m", "wrapped_avframe", "yuv420p", 16),
}
BY_FFMPEG = {".dv": "-target pal-dv", ".ogv": "-c:v libtheora", ".ogm": "-c:v libtheora -f ogg"}  # PyAV has no encoder


def test_every_listed_ending_is_tried() -> None:
    assert sorted([*FORMATS, *BY_FFMPEG]) == sorted(VIDEO_SUFFIXES)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_video_of_each_ending_gives_its_frames(tmp_path: Path, ending: str) -> None:
    muxer, codec, pixel_format, fps = FORMATS[ending]
    size = {"width": 176, "height": 144} if codec == "rv20" else {}
    made = make_video(tmp_path / f"made{muxer}", codec=codec, fps=fps, pixel_format=pixel_format, num_frames=20, **size)
    path = made.rename(tmp_path / f"clip{ending.upper()}")
    info = probe_video(path)
    assert info.num_frames == 20 and info.fps == pytest.approx(fps, rel=1e-3) and not info.variable_fps
    for wanted in (list(range(20)), [7, 8, 19]):
        assert numbers(read_frames(path, wanted, height=info.height, width=info.width)) == wanted


@pytest.mark.parametrize("ending", BY_FFMPEG)
def test_a_video_that_ffmpeg_writes_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip{ending}"
    pattern = ["-f", "lavfi", "-i", "testsrc=size=192x128:rate=25:duration=0.4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *pattern, *BY_FFMPEG[ending].split(), str(path)]
    subprocess.run(command, check=True, timeout=30)
    info = probe_video(path)
    assert (info.num_frames, Fraction(info.fps)) == (10, 25)
    assert read_frames(path, [0, 9], height=64, width=96).std() > 20, "a picture, not one colour"
