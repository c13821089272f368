"""Real files through sana.data.probe, video and frames: what is in them, which frame is which, and what is refused."""

import contextlib
import os
import struct
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
from PIL import Image

from sana.data import frames as frames_module
from sana.data.frames import read_frames
from sana.data.probe import probe_video
from sana.data.video import ClipRefused, to_pixels, write_mp4
from tests.video_files import make_audio, make_video, number, picture

pytestmark = pytest.mark.timeout(60)

# name: file ending, make_video's arguments, (codec, pixel format, bit depth)
FORMATS: dict[str, tuple[str, dict[str, Any], tuple[str, str, int]]] = {
    "h264": ("mp4", {"bframes": 3}, ("h264", "yuv420p", 8)),
    "h264_faststart_audio": ("mp4", {"bframes": 2, "faststart": True, "audio": True}, ("h264", "yuv420p", 8)),
    "h264_fragments": ("mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}, ("h264", "yuv420p", 8)),
    "h264_no_edit_list": ("mp4", {"bframes": 3, "container": {"use_editlist": "0"}}, ("h264", "yuv420p", 8)),
    "h264_starts_late": ("mp4", {"bframes": 3, "first_pts": 7}, ("h264", "yuv420p", 8)),
    "h264_open_gop": ("mkv", {"bframes": 3, "codec_options": {"x264-params": "open-gop=1"}}, ("h264", "yuv420p", 8)),
    "h264_negative_start": ("mkv", {"bframes": 3, "first_pts": -3}, ("h264", "yuv420p", 8)),
    "h264_bt709": ("mov", {"tagged": "bt709"}, ("h264", "yuv420p", 8)),
    "h264_ntsc": ("mp4", {"fps": Fraction(30000, 1001)}, ("h264", "yuv420p", 8)),
    "h264_mpegts": ("ts", {"bframes": 3}, ("h264", "yuv420p", 8)),
    "hevc": ("mp4", {"codec": "libx265", "bframes": 3}, ("hevc", "yuv420p", 8)),
    "hevc_10bit": ("mkv", {"codec": "libx265", "pixel_format": "yuv420p10le"}, ("hevc", "yuv420p10le", 10)),
    "vp9": ("webm", {"codec": "libvpx-vp9"}, ("vp9", "yuv420p", 8)),
    "mpeg4": ("mp4", {"codec": "mpeg4"}, ("mpeg4", "yuv420p", 8)),
    "mpeg4_bframes": ("avi", {"codec": "mpeg4", "bframes": 2}, ("mpeg4", "yuv420p", 8)),
    "prores": ("mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}, ("prores", "yuv422p10le", 10)),
    "ffv1": ("mkv", {"codec": "ffv1"}, ("ffv1", "yuv420p", 8)),
}
NUM_FRAMES = 40


@pytest.fixture(scope="module", params=FORMATS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    ending, options, _ = FORMATS[request.param]
    path = tmp_path_factory.mktemp("clips") / f"{request.param}.{ending}"
    return request.param, make_video(path, num_frames=NUM_FRAMES, **options)


def numbers(frames: Iterable[NDArray[np.uint8]]) -> list[int]:
    return [number(frame) for frame in frames]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def decode_all(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame, in order, by PyAV: the reference."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(ClipRefused) as caught:
        call(*args, **options)
    assert caught.value.detail and str(caught.value).startswith(caught.value.reason)
    return caught.value.reason


# ---- what is in a file


def test_probe_tells_the_facts_of_every_format(clip: tuple[str, Path]) -> None:
    name, path = clip
    info = probe_video(path)
    fps = float(FORMATS[name][1].get("fps", 16))
    assert (info.codec, info.pixel_format, info.bit_depth) == FORMATS[name][2]
    assert (info.width, info.height, info.coded_width, info.coded_height) == (96, 64, 96, 64)
    assert (info.rotation_deg, info.sample_aspect, info.num_frames) == (0, 1.0, NUM_FRAMES)
    assert info.fps == pytest.approx(fps, rel=1e-6) and info.duration_s == pytest.approx(NUM_FRAMES / fps, rel=1e-6)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_known_and_undone(tmp_path: Path, rotation: int, ending: str) -> None:
    path = make_video(tmp_path / f"turned.{ending}", num_frames=9, rotation=rotation, bframes=2)
    info = probe_video(path)
    assert info.rotation_deg == rotation and (info.coded_width, info.coded_height) == (96, 64)
    assert (info.width, info.height) == ((96, 64) if rotation == 180 else (64, 96))
    frames = read_frames(path, range(9), height=info.height, width=info.width)
    upright = [np.rot90(picture(k, width=96, height=64), rotation // 90) for k in range(9)]
    assert min(psnr(a, b) for a, b in zip(frames, upright, strict=True)) > 25
    assert numbers(np.rot90(frame, -(rotation // 90)) for frame in frames) == list(range(9))


@pytest.mark.parametrize("rotation", [0, 90])
def test_a_film_that_is_turned_as_a_whole_is_asked_of_a_frame(tmp_path: Path, rotation: int) -> None:
    """The header's matrices of film and track multiply; that is left to libav."""
    path = make_video(tmp_path / "turned.mp4", num_frames=5, rotation=rotation)
    data = bytearray(path.read_bytes())
    at = data.find(b"mvhd") + 40
    data[at : at + 36] = struct.pack(">9i", -0x10000, 0, 0, 0, -0x10000, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    assert probe_video(path).rotation_deg == (rotation + 180) % 360
    assert probe_video(path).width == (64 if rotation else 96)


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


def test_a_varying_rate_is_measured_not_believed(tmp_path: Path) -> None:
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
    assert refusal(read_frames, path, [info.num_frames], height=64, width=96) == "truncated"


# ---- which frame is which


def test_frame_k_is_frame_k_for_any_choice_of_frames(clip: tuple[str, Path]) -> None:
    _, path = clip
    rng = np.random.default_rng(0)
    whole = read_frames(path, range(NUM_FRAMES), height=64, width=96)
    assert numbers(whole) == list(range(NUM_FRAMES))
    for size in (1, 3, 9, 17):
        some = rng.choice(NUM_FRAMES, size, replace=False).tolist()  # not in order
        assert np.array_equal(read_frames(path, some, height=64, width=96), whole[some])
    last = NUM_FRAMES - 1
    assert np.array_equal(read_frames(path, [last, 0, last], height=64, width=96), whole[[last, 0, last]])


def test_frames_are_those_of_a_plain_sequential_decode(clip: tuple[str, Path]) -> None:
    _, path = clip
    frames = read_frames(path, range(NUM_FRAMES), height=32, width=32)
    for frame, source in zip(frames, decode_all(path), strict=True):
        expected = Image.fromarray(source).resize((32, 32), Image.Resampling.BICUBIC, box=(16, 0, 80, 64))
        assert psnr(frame, np.asarray(expected)) >= 40


DECORD_READS = {name for name in FORMATS if name.startswith("h264") and name != "h264_mpegts"}


@pytest.fixture
def decord_frames(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    """The frames that decord hands out from here on."""
    handed_out: list[NDArray[np.uint8]] = []

    class Counted(frames_module.decord.VideoReader):
        def next(self) -> Any:
            frame = super().next()
            handed_out.append(frame.asnumpy())
            return frame

    monkeypatch.setattr(frames_module.decord, "VideoReader", Counted)
    return handed_out


def test_decord_reads_what_it_reads_exactly(clip: tuple[str, Path], decord_frames: list[NDArray[np.uint8]]) -> None:
    name, path = clip
    for indices in (range(NUM_FRAMES), [0], [17, 4, 3], [NUM_FRAMES - 1]):
        decord_frames.clear()
        frames = read_frames(path, indices, height=48, width=48)
        assert len(decord_frames) == (max(indices) + 1 if name in DECORD_READS else 0)
        assert all(np.array_equal(*pair) for pair in zip(decord_frames, decode_all(path), strict=False))
        by_av = np.empty_like(frames)
        frames_module._read_with_av(path, np.asarray(indices), by_av, None)
        assert np.array_equal(frames, by_av)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotation": 90, "bframes": 2}, True),
        ({"rotation": 180, "bframes": 2}, True),
        ({"rotation": 90, "pixel_format": "yuv422p"}, False),  # decord turns it before it doubles the chroma
        ({"pixel_format": "yuv420p10le"}, False),
        ({"sar": Fraction(4, 3)}, False),
        ({"first_pts": -3, "bframes": 3}, False),  # an edit list
        ({"codec_options": {"x264-params": "interlaced=1"}}, False),
    ],
)
def test_decord_is_not_used_where_it_would_differ(
    tmp_path: Path, decord_frames: list[NDArray[np.uint8]], options: dict[str, Any], expected: bool
) -> None:
    path = make_video(tmp_path / "clip.mp4", num_frames=12, **options)
    num_frames = probe_video(path).num_frames
    frames = read_frames(path, range(num_frames), height=32, width=32)
    assert (len(decord_frames) == num_frames) == expected
    by_av = np.empty_like(frames)
    frames_module._read_with_av(path, np.arange(num_frames), by_av, None)
    assert np.array_equal(frames, by_av)


def test_a_size_that_changes_on_the_way_is_not_for_decord(
    tmp_path: Path, decord_frames: list[NDArray[np.uint8]]
) -> None:
    """Decord would squeeze every frame into the first one's shape."""
    parts = [make_video(tmp_path / f"{width}.ts", num_frames=10, width=width, height=64) for width in (96, 192)]
    path = tmp_path / "joined.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = None
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
                    packet.pts = packet.dts = (index + 10 * (part == parts[1])) * 5625
                    packet.stream = stream
                    out.mux(packet)
    assert [frame.shape[1] for frame in decode_all(path)] == [96] * 10 + [192] * 10
    frames = read_frames(path, [9, 10], height=64, width=64)
    assert not decord_frames
    wide = Image.fromarray(decode_all(path)[10]).resize((64, 64), Image.Resampling.BICUBIC, box=(64, 0, 128, 64))
    assert np.array_equal(frames[1], np.asarray(wide))


def test_a_header_that_promises_too_much_does_not_abort_the_process(tmp_path: Path) -> None:
    """Decord reserves an index for as many frames as the header says, and dies of it."""
    path = make_video(tmp_path / "huge.mp4", num_frames=5)
    data = bytearray(path.read_bytes())
    at = data.find(b"stts") + 8
    assert struct.unpack(">II", data[at : at + 8])[0:2] == (1, 5)
    data[at + 4 : at + 8] = struct.pack(">I", 0x7FFFFFFF)
    path.write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from sana.data.frames import read_frames\n"
        "read_frames(Path(sys.argv[1]), range(5), height=64, width=96)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_resize_covers_and_crops_the_centre(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", num_frames=3, width=128, height=64, codec_options={"crf": "4"})
    source = Image.fromarray(decode_all(path)[2])
    for height, width, box in [(16, 16, (32, 0, 96, 64)), (16, 64, (0, 16, 128, 48)), (64, 128, (0, 0, 128, 64))]:
        frame = read_frames(path, [2], height=height, width=width)[0]
        expected = source.resize((width, height), Image.Resampling.BICUBIC, box=box)
        assert frame.shape == (height, width, 3) and np.array_equal(frame, np.asarray(expected))
    assert read_frames(path, [0, 1], height=128, width=96).shape == (2, 128, 96, 3)  # up is the caller's business


@pytest.mark.parametrize("indices", [[], [-1], [0, -2]])
def test_indices_are_checked(tmp_path: Path, indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices >= 0"):
        read_frames(tmp_path / "never_opened.mp4", indices, height=64, width=96)


# ---- what is refused


def test_what_is_not_a_video_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents = {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(50_000),
        "text": b"a cat walks over the road\n" * 100,
        "zeros": bytes(10_000),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(content)
        expected = "empty" if name == "empty" else "unreadable"
        assert refusal(probe_video, path) == expected, name
        assert refusal(read_frames, path, [0], height=64, width=96) == expected, name
    sound = make_audio(tmp_path / "sound.mp4")
    assert refusal(probe_video, sound) == refusal(read_frames, sound, [0], height=64, width=96) == "no_video"
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_not_the_clips_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_video(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "gone.mp4", [0], height=64, width=96)


CONTAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("mp4", {"bframes": 3}),
    "faststart": ("mp4", {"bframes": 3, "faststart": True}),
    "faststart_audio": ("mp4", {"faststart": True, "audio": True}),
    "fragments": ("mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "mkv": ("mkv", {}),
    "webm": ("webm", {"codec": "libvpx-vp9"}),
    "avi": ("avi", {"codec": "mpeg4"}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_cut_file_is_refused_or_counted_exactly(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS[name]
    data = make_video(tmp_path / f"whole.{ending}", num_frames=NUM_FRAMES, **options).read_bytes()
    header = data.find(b"mdat") + 8 if name.startswith("faststart") else len(data)
    path = tmp_path / f"cut.{ending}"
    for percent in (1, 10, 25, 40, 55, 70, 85, 95, 99):
        path.write_bytes(data[: len(data) * percent // 100])
        try:
            num_frames = probe_video(path).num_frames
        except ClipRefused as refused:
            assert refused.reason in ("truncated", "unreadable")
            assert refused.reason == "truncated" or path.stat().st_size <= header, percent
            assert refusal(read_frames, path, range(NUM_FRAMES), height=64, width=96)
            continue
        assert numbers(read_frames(path, range(num_frames), height=64, width=96)) == list(range(num_frames))
        assert refusal(read_frames, path, [0, num_frames], height=64, width=96) == "truncated"


@pytest.mark.parametrize("name", CONTAINERS)
def test_damage_refuses_the_frames_behind_it_and_no_others(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS[name]
    path = make_video(tmp_path / f"damaged.{ending}", num_frames=NUM_FRAMES, gop=8, **options)
    with av.open(str(path)) as container:
        at = [packet.pos or 0 for packet in container.demux(video=0)][24]
    data = bytearray(path.read_bytes())
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    assert numbers(read_frames(path, range(16), height=64, width=96)) == list(range(16))
    assert len({_outcome(path) for _ in range(4)}) == 1


@pytest.mark.parametrize("name", [*CONTAINERS, "ts"])
def test_any_damage_ends_in_frames_or_in_a_refusal(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS.get(name, ("ts", {}))
    data = make_video(tmp_path / f"whole.{ending}", num_frames=NUM_FRAMES, **options).read_bytes()
    path = tmp_path / f"damaged.{ending}"
    rng = np.random.default_rng(0)
    for round_ in range(24):
        damaged = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(damaged), rng.choice([1, 2, 5, 20]))
        damaged[where] = rng.integers(0, 256, len(where))
        path.write_bytes(damaged.tobytes()[: rng.integers(1, len(damaged)) if round_ % 4 == 0 else None])
        with contextlib.suppress(ClipRefused):
            assert probe_video(path).num_frames > 0
        assert _outcome(path) == _outcome(path)


def _outcome(path: Path) -> tuple[str, ...]:
    """For each prefix of the clip: the bytes that are read, or the reason and detail of the refusal."""
    outcome = []
    for stop in (1, 8, 16, 24, 40):
        try:
            outcome.append(read_frames(path, range(stop), height=16, width=16).tobytes().hex())
        except ClipRefused as refused:
            outcome.append(str(refused))
    return tuple(outcome)


def test_a_large_clip_is_not_held_in_memory(tmp_path: Path) -> None:
    path = make_video(tmp_path / "large.mp4", num_frames=44, width=1920, height=1080)
    code = (
        "import resource, sys; from pathlib import Path; from sana.data.frames import read_frames\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_frames(Path(sys.argv[1]), range(44), height=48, width=80)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    grown_mib = int(subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True).stdout)
    assert grown_mib < 120  # all 44 frames would be 261, and decord may decode them all ahead


def test_undecodable_frames_are_never_replaced_by_copies(tmp_path: Path) -> None:
    """A stream cut out of a longer one, not at a key frame (decord repeats the last frame at its end)."""
    whole = make_video(tmp_path / "whole.mkv", num_frames=60, bframes=3)
    path = tmp_path / "cut_out.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in [p for p in source.demux(video=0) if p.size][5:]:
            packet.stream = stream
            out.mux(packet)
    good = len(decode_all(path))
    assert good < 55
    frames = numbers(read_frames(path, range(good), height=64, width=96))
    assert frames == list(range(60 - good, 60))
    assert refusal(read_frames, path, range(good + 1), height=64, width=96) == "truncated"


# ---- names, output, weight


@pytest.mark.parametrize(
    "name",
    [
        "two words.mp4",
        "na\u00efve \u732b.mp4",
        "new\nline.mp4",
        "a:b.mp4",
        "%03d.mp4",
        "[x]*?.mp4",
        "-i.mp4",
        b"\xff.mp4",
    ],
)
def test_any_file_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
    plain = make_video(tmp_path / "plain.mp4", num_frames=5)
    path = plain.rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path.name)):
        assert probe_video(given).num_frames == 5
        assert numbers(read_frames(given, [4, 2], height=64, width=96)) == [4, 2]


def test_a_bad_letter_in_the_metadata_is_no_obstacle(tmp_path: Path) -> None:
    path = make_video(tmp_path / "latin1.mp4", num_frames=5)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xff\xfe\xe9\xe8"))
    assert probe_video(path).num_frames == 5


def test_written_frames_come_back(tmp_path: Path) -> None:
    frames = np.stack([picture(k, width=96, height=64) for k in range(17)])
    path = tmp_path / "out.mp4"
    write_mp4(path, frames, fps=30000 / 1001)
    info = probe_video(path)
    assert (info.width, info.height, info.num_frames, info.codec) == (96, 64, 17, "h264")
    assert info.fps == pytest.approx(30000 / 1001)
    back = read_frames(path, range(17), height=64, width=96)
    assert numbers(back) == list(range(17)) and min(map(psnr, back, frames)) > 28
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")
    write_mp4(tmp_path / "again.mp4", frames, fps=30000 / 1001)
    assert (tmp_path / "again.mp4").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("colour", [(200, 40, 40), (30, 180, 60), (20, 60, 220), (128, 128, 128)])
def test_colours_come_back(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "flat.mp4"
    write_mp4(path, np.full((5, 64, 96, 3), colour, np.uint8), fps=16)
    back = read_frames(path, range(5), height=64, width=96).reshape(-1, 3)
    assert np.abs(back.mean(axis=0) - colour).max() < 2.5  # reading it as BT.601 would be off by 20


@pytest.mark.parametrize(
    ("shape", "dtype", "fps"),
    [((0, 64, 96, 3), "uint8", 16), ((5, 63, 96, 3), "uint8", 16), ((5, 64, 96, 3), "float32", 16),
     ((3, 5, 64, 96), "uint8", 16), ((5, 64, 96, 3), "uint8", 0)],
)  # fmt: skip
def test_what_cannot_be_written_is_said(tmp_path: Path, shape: tuple[int, ...], dtype: str, fps: float) -> None:
    with pytest.raises(ValueError, match="write_mp4 needs"):
        write_mp4(tmp_path / "out.mp4", np.zeros(shape, dtype), fps=fps)
    assert not list(tmp_path.iterdir())


def test_pixels_are_in_minus_one_to_one() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    frames[0, 0, 0] = (0, 255, 128)
    pixels = to_pixels(frames)
    assert pixels.shape == (3, 5, 4, 6) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert pixels[:, 0, 0, 0].tolist() == pytest.approx([-1, 1, 128 / 127.5 - 1], abs=1e-7)
    assert np.array_equal(np.round((pixels + 1) * 127.5).astype(np.uint8).transpose(1, 2, 3, 0), frames)


def test_importing_it_is_light() -> None:
    code = "import sys, sana.data.frames; sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
