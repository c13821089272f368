"""What decoders complain of is kept in the log with the file's name: one line each, none on the terminal."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from sana.data.decoder_log import MAX_CHARS, MAX_LINES, called
from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(60)

# codec -> ending; what its decoder says of a damaged file begins with its name
CODECS = {
    "mpeg2video": ".mpg",
    "mpeg4": ".avi",
    "libvpx-vp9": ".webm",
    "wmv2": ".wmv",
    "prores_ks": ".mov",
    "gif": ".gif",
}
PIXELS = {"prores_ks": "yuv422p10le", "gif": "rgb8"}


def damaged(path: Path, codec: str) -> Path:
    """Make a video, and damage its second half."""
    made = make_video(path, codec=codec, pixel_format=PIXELS.get(codec, "yuv420p"), fps=25)
    data = bytearray(made.read_bytes())
    for at in range(len(data) // 2, len(data), 97):
        data[at] ^= 0xFF
    made.write_bytes(data)
    return made


def quietly(action: Callable[[Path], object], path: Path) -> None:
    with suppress(ClipRejected):
        action(path)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our lines; pytest also shows those of libav, which reach no handler but ours."""
    assert not logging.getLogger("libav").propagate
    records = [record for record in caplog.records if not record.name.startswith("libav")]
    assert all(record.levelno == logging.INFO for record in records), "the launcher would pass warnings on"
    return [record.getMessage() for record in records]


def read_all(path: Path) -> object:
    return read_frames(path, range(25), height=64, width=96)


@pytest.mark.parametrize("codec", CODECS)
def test_complaints_are_one_line_with_the_name(
    tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = damaged(tmp_path / f"bad{CODECS[codec]}", codec)
    capfd.readouterr()  # an encoder may print
    with caplog.at_level(logging.INFO):
        quietly(read_all, path)
    assert said(caplog)
    for text in said(caplog):
        assert text.startswith(f"{path}: ") and "\n" not in text
        assert len(text) < len(str(path)) + MAX_LINES * (MAX_CHARS + 40) + 40
    assert capfd.readouterr().err == "", "nothing on the terminal"


def test_a_good_file_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(tmp_path / "a.mp4")
    with caplog.at_level(logging.INFO):
        probe_video(path)
        read_all(path)
    assert said(caplog) == []


def test_each_thread_names_its_own_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [damaged(tmp_path / f"{codec}{i}{CODECS[codec]}", codec) for i in range(3) for codec in ("mpeg4", "wmv2")]
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda path: quietly(read_all, path), paths * 2))
    assert {path.name for path in paths} == {Path(message.partition(": ")[0]).name for message in said(caplog)}
    for message in said(caplog):
        name, _, text = message.partition(": ")
        parts = {line.partition(": ")[0] for line in text.split("; ")}
        assert parts <= ({"mpeg4", "avi"} if name.endswith(".avi") else {"wmv2", "asf"}), "those of this file"


def test_a_fetched_file_has_the_name_of_its_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = damaged(tmp_path / "0123abcd.avi", "mpeg4")
    with caplog.at_level(logging.INFO), called(path, "clips/cat.avi"):
        quietly(read_all, path)
    assert said(caplog) and all(message.startswith("clips/cat.avi: ") for message in said(caplog))
