"""Any file name can be read, written frames read back the same, and pixels are in [-1, 1]."""

import os
from pathlib import Path

import numpy as np
import pytest

from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from sana.data.video.video import to_pixels, write_mp4
from tests.video_files import make_video, numbers, picture, psnr

pytestmark = pytest.mark.timeout(60)


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
def test_any_file_name_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
    plain = make_video(tmp_path / "plain.mp4", num_frames=5)
    path = plain.rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path.name)):
        assert probe_video(given).num_frames == 5
        assert numbers(read_frames(given, [4, 2], height=64, width=96)) == [4, 2]


def test_metadata_that_is_not_utf_8_is_ignored(tmp_path: Path) -> None:
    path = make_video(tmp_path / "latin1.mp4", num_frames=5)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xff\xfe\xe9\xe8"))
    assert probe_video(path).num_frames == 5


def test_written_frames_read_back_the_same(tmp_path: Path) -> None:
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
def test_colours_read_back_the_same(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "flat.mp4"
    write_mp4(path, np.full((5, 64, 96, 3), colour, np.uint8), fps=16)
    back = read_frames(path, range(5), height=64, width=96).reshape(-1, 3)
    assert np.abs(back.mean(axis=0) - colour).max() < 2.5  # reading it as BT.601 would be off by 20


@pytest.mark.parametrize(
    ("shape", "dtype", "fps"),
    [((0, 64, 96, 3), "uint8", 16), ((5, 63, 96, 3), "uint8", 16), ((5, 64, 96, 3), "float32", 16),
     ((3, 5, 64, 96), "uint8", 16), ((5, 64, 96, 3), "uint8", 0)],
)  # fmt: skip
def test_frames_that_cannot_be_written_are_an_error(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, fps: float
) -> None:
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
