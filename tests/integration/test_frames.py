"""Frames by number: frame k is frame k in every format, with decord where it is exact and else with PyAV."""

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sana.data.video import frames as frames_module
from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from tests.video_files import decode_all, make_video, memory_grown_mib, numbers, psnr
from tests.video_formats import FORMATS, NUM_FRAMES

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=FORMATS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    ending, options, _ = FORMATS[request.param]
    path = tmp_path_factory.mktemp("clips") / f"{request.param}.{ending}"
    return request.param, make_video(path, num_frames=NUM_FRAMES, **options)


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


def num_expected(handed_out: list[NDArray[np.uint8]], num_frames: int) -> int:
    """How many frames decord gives where it is used: all, or one that is seen to be wrong.

    On CPUs with AVX-512 it takes the padding of a row for a fourth channel where the width is no multiple of 64 pixels.
    """
    return 1 if handed_out and handed_out[0].shape[2] != 3 else num_frames


def test_decord_reads_what_it_reads_exactly(clip: tuple[str, Path], decord_frames: list[NDArray[np.uint8]]) -> None:
    name, path = clip
    for indices in (range(NUM_FRAMES), [0], [17, 4, 3], [NUM_FRAMES - 1]):
        decord_frames.clear()
        frames = read_frames(path, indices, height=48, width=48)
        expected = num_expected(decord_frames, max(indices) + 1)
        assert len(decord_frames) == (expected if name in DECORD_READS else 0)
        if expected > 1:
            assert all(np.array_equal(*pair) for pair in zip(decord_frames, decode_all(path), strict=False))
        by_av = np.empty_like(frames)
        frames_module._read_with_av(path, np.asarray(indices), by_av, None, "")
        assert np.array_equal(frames, by_av)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotation": 90, "bframes": 2}, True),
        ({"rotation": 180, "bframes": 2}, True),
        ({"rotation": 90, "pixel_format": "yuv422p"}, False),  # decord rotates it before it upsamples the chroma
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
    if expected:
        assert len(decord_frames) == num_expected(decord_frames, num_frames)
    else:
        assert len(decord_frames) < num_frames
    by_av = np.empty_like(frames)
    frames_module._read_with_av(path, np.arange(num_frames), by_av, None, "")
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
    """Decord allocates an index for as many frames as the header states, and aborts."""
    path = make_video(tmp_path / "huge.mp4", num_frames=5)
    data = bytearray(path.read_bytes())
    at = data.find(b"stts") + 8
    assert struct.unpack(">II", data[at : at + 8])[0:2] == (1, 5)
    data[at + 4 : at + 8] = struct.pack(">I", 0x7FFFFFFF)
    path.write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from sana.data.video.frames import read_frames\n"
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


def test_a_large_clip_is_not_held_in_memory(tmp_path: Path) -> None:
    path = make_video(tmp_path / "large.mp4", num_frames=44, width=1920, height=1080)
    grown_mib = memory_grown_mib(path, "read_frames(path, range(44), height=48, width=80)")
    assert grown_mib < 120  # all 44 frames would be 261, and decord may decode them all ahead


def test_importing_it_is_light() -> None:
    code = (
        "import sys, sana.data.video.frames; sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
