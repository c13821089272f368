"""The facts that probe reads: sizes, rotation, pixel aspect, rate and number of frames."""

import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from tests.torture_files import FFMPEG
from tests.video_files import decode_all, make_video, numbers, picture, psnr, rejection
from tests.video_formats import FORMATS, NUM_FRAMES

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("name", FORMATS)
def test_probe_reads_the_facts_of_every_format(tmp_path: Path, name: str) -> None:
    ending, options, _ = FORMATS[name]
    info = probe_video(make_video(tmp_path / f"{name}.{ending}", num_frames=NUM_FRAMES, **options))
    fps = float(options.get("fps", 16))
    assert (info.codec, info.pixel_format, info.bit_depth) == FORMATS[name][2]
    assert (info.width, info.height, info.coded_width, info.coded_height) == (96, 64, 96, 64)
    assert (info.rotation_deg, info.sample_aspect, info.num_frames) == (0, 1.0, NUM_FRAMES)
    assert info.fps == pytest.approx(fps, rel=1e-6) and info.duration_s == pytest.approx(NUM_FRAMES / fps, rel=1e-6)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_known_and_undone(tmp_path: Path, rotation: int, ending: str) -> None:
    path = make_video(tmp_path / f"rotated.{ending}", num_frames=9, rotation=rotation, bframes=2)
    info = probe_video(path)
    assert info.rotation_deg == rotation and (info.coded_width, info.coded_height) == (96, 64)
    assert (info.width, info.height) == ((96, 64) if rotation == 180 else (64, 96))
    frames = read_frames(path, range(9), height=info.height, width=info.width)
    upright = [np.rot90(picture(k, width=96, height=64), rotation // 90) for k in range(9)]
    assert min(psnr(a, b) for a, b in zip(frames, upright, strict=True)) > 25
    assert numbers(np.rot90(frame, -(rotation // 90)) for frame in frames) == list(range(9))


@pytest.mark.parametrize("rotation", [0, 90])
def test_the_rotation_of_a_movie_as_a_whole_is_read_from_a_frame(tmp_path: Path, rotation: int) -> None:
    """The matrices of movie and track multiply; that is left to libav."""
    path = make_video(tmp_path / "rotated.mp4", num_frames=5, rotation=rotation)
    data = bytearray(path.read_bytes())
    at = data.find(b"mvhd") + 40
    data[at : at + 36] = struct.pack(">9i", -0x10000, 0, 0, 0, -0x10000, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    assert probe_video(path).rotation_deg == (rotation + 180) % 360
    assert probe_video(path).width == (64 if rotation else 96)


@pytest.mark.parametrize("box", ["mvhd", "tkhd"])
@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_a_mirrored_video_is_rejected_and_not_taken_for_a_rotated_one(tmp_path: Path, box: str, matrix: tuple) -> None:
    path = make_video(tmp_path / "mirrored.mp4", num_frames=5)
    data, (a, b, c, d) = bytearray(path.read_bytes()), (0x10000 * one for one in matrix)
    at = data.find(box.encode()) + (40 if box == "mvhd" else 44)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    with pytest.raises(ClipRejected, match="unreadable: its display matrix mirrors"):
        probe_video(path)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_pixels_that_are_not_square_are_made_square(tmp_path: Path, rotation: int, ending: str) -> None:
    path = make_video(tmp_path / f"wide.{ending}", num_frames=5, sar=Fraction(4, 3), rotation=rotation)
    info = probe_video(path)
    assert info.sample_aspect == pytest.approx(4 / 3, rel=1e-3) and info.coded_width == 96
    assert (info.width, info.height) == ((128, 64) if rotation == 0 else (64, 128))
    frames = read_frames(path, range(5), height=info.height, width=info.width)
    whole = Image.fromarray(decode_all(path)[4]).resize((128, 64), Image.Resampling.BICUBIC)
    assert psnr(frames[4], np.rot90(np.asarray(whole), rotation // 90)) > 40


@pytest.mark.parametrize(("ending", "rotation"), [("mp4", "0"), ("mkv", "90")])
def test_pixels_that_are_almost_square_are_square(tmp_path: Path, ending: str, rotation: str) -> None:
    """ffmpeg leaves such pixels when it keeps the display aspect and rounds a size: 1280:1281 here."""
    scaled, path = tmp_path / f"scaled.{ending}", tmp_path / f"rotated.{ending}"
    source = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=16", "-frames:v", "5", "-pix_fmt", "yuv420p"]
    subprocess.run([*FFMPEG, *source, "-vf", "scale=854:480,crop=832:480", "-c:v", "libx264", scaled], check=True)
    subprocess.run([*FFMPEG, "-display_rotation", rotation, "-i", scaled, "-c", "copy", path], check=True)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(1280, 1281)
    info = probe_video(path)
    assert (info.width, info.height) == ((832, 480) if rotation == "0" else (480, 832))
    assert info.sample_aspect == 1 and info.coded_width == 832
    frames = read_frames(path, range(5), height=info.height, width=info.width)
    assert np.array_equal(frames[4], np.rot90(decode_all(path)[4], int(rotation) // 90))  # nothing is resampled


@pytest.mark.parametrize(
    ("sar", "width"),
    [(Fraction(100, 101), 96), (Fraction(101, 100), 96), (Fraction(16, 15), 102), (Fraction(12, 11), 105)],
)
def test_display_sizes_are_rounded(tmp_path: Path, sar: Fraction, width: int) -> None:
    assert probe_video(make_video(tmp_path / "video.mp4", num_frames=1, sar=sar)).width == width


def test_a_varying_rate_is_measured_by_timestamps(tmp_path: Path) -> None:
    """A screen recording whose header says 1000 fps and whose timestamps say 10."""
    path = tmp_path / "recording.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=1000, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", Fraction(1, 1000)
        for k in range(21):
            frame = av.VideoFrame.from_ndarray(picture(k, width=96, height=64), format="rgb24")
            frame.pts, frame.time_base = k * 100 + (k % 2) * 30, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    info = probe_video(path)
    assert info.fps == pytest.approx(10) and info.duration_s == pytest.approx(2.1)


def test_frames_that_an_edit_list_trims_are_not_counted(tmp_path: Path) -> None:
    path = make_video(tmp_path / "trimmed_start.mp4", num_frames=25, first_pts=-3, bframes=3)
    assert probe_video(path).num_frames == 22
    assert numbers(read_frames(path, [0, 1, 21], height=64, width=96)) == [3, 4, 24]

    path = make_video(tmp_path / "trimmed_end.mp4", num_frames=200, bframes=2)
    data = bytearray(path.read_bytes())
    at = data.find(b"elst") + 12  # segment_duration: a phone's "trim" shortens it and leaves the samples in the file
    data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] // 4)
    path.write_bytes(data)
    info = probe_video(path)
    assert info.num_frames == len(decode_all(path)) < 200
    assert numbers(read_frames(path, [0, 30], height=64, width=96)) == [0, 30]
    assert rejection(read_frames, path, [info.num_frames], height=64, width=96) == "truncated"


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_frames_that_avi_repeats_by_packets_without_bytes_are_not_lost_ones(tmp_path: Path, codec: str) -> None:
    """Capture programs write such a packet for each frame that they drop; the header counts them."""
    path, held = tmp_path / "capture.avi", "setpts='if(gte(N,4),N+8,N)/(16*TB)'"
    options = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=16:d=0.5", "-vf", held, "-fps_mode", "passthrough"]
    subprocess.run([*FFMPEG, *options, "-c:v", codec, str(path)], check=True)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 8 == len(container.streams.video[0].index_entries)
    info = probe_video(path)
    assert info.num_frames == 8 and info.variable_fps and info.duration_s == pytest.approx(1, abs=0.2)
    cut = path.with_name("cut.avi")
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert rejection(probe_video, cut) == "truncated"
