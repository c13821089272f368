"""Frames by presentation time: those a player would show, in files of any rate, constant or not."""

import subprocess
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sana.data.bucketing.windows import available_frames
from sana.data.video.decode_by_time import read_times
from sana.data.video.frames import read_frames, read_window
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from tests.video_files import blank_packet, make_video, memory_grown_mib, numbers, picture

pytestmark = pytest.mark.timeout(60)

SIZE: dict[str, Any] = {"height": 64, "width": 96}
FORMATS: dict[str, dict[str, Any]] = {
    "b.mp4": {"bframes": 3},
    "late.mp4": {"bframes": 3, "first_pts": 7},
    "trimmed.mp4": {"bframes": 3, "first_pts": -3},
    "b.mkv": {"bframes": 3},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "ntsc.mkv": {"fps": Fraction(30000, 1001)},
    "film.webm": {"codec": "libvpx-vp9", "fps": Fraction(24000, 1001)},
    "b.ts": {"bframes": 3},
    "b.avi": {"codec": "mpeg4", "bframes": 2},
}


def rejection(path: Path, times: list[float]) -> str:
    with pytest.raises(ClipRejected) as caught:
        read_times(path, times, **SIZE)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_at_its_own_rate_a_file_gives_each_frame_once(tmp_path: Path, name: str) -> None:
    """Also where the container has rounded the timestamps (Matroska) or ticks once a frame (AVI)."""
    path = make_video(tmp_path / name, num_frames=30, **FORMATS[name])
    fps, num = float(FORMATS[name].get("fps", 16)), 27 if name == "trimmed.mp4" else 30
    times = [k / fps for k in range(num)]
    assert np.array_equal(read_times(path, times, **SIZE), read_frames(path, range(num), **SIZE))
    first = num - 30 if num < 30 else 0
    half = numbers(read_times(path, times[: num - 1 : 2], **SIZE))
    assert half == [k - first for k in range(0, num - 1, 2)]
    double = numbers(read_times(path, [k / fps / 2 + 0.004 for k in range(2 * num - 1)], **SIZE))
    assert double == [k // 2 - first for k in range(2 * num - 1)]
    assert rejection(path, [0.0, (num + 1) / fps]).startswith("truncated: frames last to")


@given(
    gaps_ms=st.lists(st.integers(3, 400), min_size=1, max_size=14),
    fps=st.sampled_from([5.0, 7.3, 16.0, 24.0, 59.94]),
    start=st.integers(0, 20),
)
@example(gaps_ms=[3, 3, 3, 3, 188], fps=5.0, start=0)  # the last frame, at its very timestamp
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_timestamps(tmp_path: Path, gaps_ms: list[int], fps: float, start: int) -> None:
    """The frame at a time is the last that has begun, to the container's millisecond; each stays until the next."""
    shown_ms = np.cumsum([0, *gaps_ms]).tolist()
    path = tmp_path / "any.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", Fraction(1, 1000)
        for index, time in enumerate(shown_ms):
            frame = av.VideoFrame.from_ndarray(picture(index, width=96, height=64), format="rgb24")
            frame.pts, frame.time_base = 40 + time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    times = [t for k in range(start, 400) if (t := k / fps) * 1000 <= shown_ms[-1]] or [0.0]
    got = numbers(read_times(path, times, **SIZE))
    assert got == [bisect_right(shown_ms, 1000 * t + 1 + 1e-5) - 1 for t in times]
    assert got == sorted(got)


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A file by ffmpeg whose frames follow ever more slowly, and when each is shown, seconds."""
    folder = tmp_path_factory.mktemp("vfr")
    steady = make_video(folder / "steady.mkv", num_frames=60, codec_options={"crf": "4"})
    path = folder / "varying.mp4"
    curve = "settb=1/90000,setpts=(0.0213*N+0.0007*N*N)/TB"
    encode = ["-fps_mode", "vfr", "-enc_time_base", "1/90000", "-c:v", "libx264", "-bf", "3", "-crf", "8"]
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", steady, "-vf", curve, *encode, path], check=True
    )
    return path, [0.0213 * n + 0.0007 * n * n for n in range(60)]


@pytest.mark.parametrize("fps", [4.0, 10.0, 16.0, 30.0, 50.0])
def test_a_varying_rate_by_ffmpeg(varying: tuple[Path, list[float]], fps: float) -> None:
    path, shown = varying
    times = [k / fps for k in range(int(shown[-1] * fps))]
    assert numbers(read_times(path, times, **SIZE)) == [bisect_right(shown, t + 2 / 90_000) - 1 for t in times]


def test_a_window_is_read_as_its_row_says(varying: tuple[Path, list[float]]) -> None:
    path, shown = varying
    crop = {"crop_left": 24.0, "crop_top": 8.0, "crop_width": 48.0, "crop_height": 48.0, "treatment": ""}
    row = {"bucket": "9x32x32", "start_frame": 5, "window_fps": 8.0, **crop}
    chosen = [bisect_right(shown, k / 8) - 1 for k in range(5, 14)]
    box = (24.0, 8.0, 48.0, 48.0)
    assert np.array_equal(read_window(path, row), read_frames(path, chosen, height=32, width=32, crop=box))
    every = {**row, "window_fps": 0.0}
    assert np.array_equal(read_window(path, every), read_frames(path, range(5, 14), height=32, width=32, crop=box))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("target", [5.0, 16.0, 25.0])
def test_all_frames_that_are_promised_can_be_read(tmp_path: Path, name: str, target: float) -> None:
    """What the bucket stage counts from the duration, the decoder finds."""
    path = make_video(tmp_path / name, num_frames=30, **FORMATS[name])
    promised, duration_s = promised_frames(path, target)
    assert duration_s * target - 1 < promised < duration_s * target + 1
    assert len(read_times(path, [k / target for k in range(promised)], **SIZE)) == promised


@pytest.mark.parametrize("target", [5.0, 16.0, 60.0])
def test_all_frames_that_are_promised_of_a_varying_rate(varying: tuple[Path, list[float]], target: float) -> None:
    promised, duration_s = promised_frames(varying[0], target)
    assert duration_s * target - 1 < promised < duration_s * target + 1
    assert len(read_times(varying[0], [k / target for k in range(promised)], **SIZE)) == promised


def promised_frames(path: Path, target: float) -> tuple[int, float]:
    """What the bucket stage counts at a target rate, and the seconds that it counts from."""
    info = probe_video(path)
    return int(available_frames(np.array([info.num_frames]), np.array([info.duration_s]), target)[0]), info.duration_s


def test_rotation_and_pixel_aspect_are_undone(tmp_path: Path) -> None:
    path = make_video(tmp_path / "rotated.mp4", num_frames=9, rotation=90, sar=Fraction(4, 3))
    size: dict[str, Any] = {"height": 128, "width": 64}
    assert np.array_equal(read_times(path, [k / 16 for k in range(9)], **size), read_frames(path, range(9), **size))


@pytest.mark.parametrize("name", ["cut.mkv", "cut_fragments.mp4"])
def test_a_file_that_ends_early_is_rejected_not_stretched(tmp_path: Path, name: str) -> None:
    whole = {"container": {"movflags": "frag_keyframe+empty_moov"}} if "fragments" in name else {}
    path = make_video(tmp_path / name, num_frames=81, gop=8, **whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    got = len(read_times(path, [k / 16 for k in range(9)], **SIZE))
    assert got == 9
    for times in ([k / 16 for k in range(81)], [5.0]):
        assert rejection(path, times).startswith("truncated: frames last to")


def test_nothing_behind_the_last_time_is_decoded(tmp_path: Path) -> None:
    path = make_video(tmp_path / "damaged.mp4", num_frames=60, gop=8)
    blank_packet(path, 40)
    assert numbers(read_times(path, [k / 16 for k in range(33)], **SIZE)) == list(range(33))
    assert rejection(path, [k / 16 for k in range(60)]).startswith("truncated")


@pytest.mark.parametrize("times", [[], [-0.1], [1.0, 0.5]])
def test_times_are_checked(tmp_path: Path, times: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending times >= 0"):
        read_times(tmp_path / "never_opened.mp4", times, **SIZE)


def test_a_long_clip_is_not_held_in_memory(tmp_path: Path) -> None:
    path = make_video(tmp_path / "large.mp4", num_frames=24, width=1920, height=1080)
    one = "read_times(path, [0.0], height=48, width=80)"
    every = "read_times(path, [k / 16 for k in range(24)], height=48, width=80)"
    assert memory_grown_mib(path, every, before=one) < 60  # all 24 frames would be 142 MiB
