"""A window deep in a long video is bit for bit that of a decode from the file's start, or is rejected as there."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sana.data.video import decode_by_time as times_module
from sana.data.video import frames as frames_module
from sana.data.video.bitstream.h264_bitstream import is_entry, read_header
from sana.data.video.decode_by_time import read_times
from sana.data.video.frames import read_frames
from sana.data.video.video import ClipRejected
from tests.long_videos import BY_DEFAULT, FILMS, FPS, GOP, NUM_FRAMES, REMUXED, X264, some
from tests.torture_files import FFMPEG

pytestmark = pytest.mark.timeout(60)

SIZE: dict[str, Any] = {"height": 48, "width": 64}


class Counts:
    def __init__(self) -> None:
        self.frames = self.sought = 0


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Counts the windows decoded from an entry on, and the frames decoded for them."""
    counted = Counts()

    def counting_frames(frames_from: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(*args: Any) -> Iterator[Any]:
            for frame in frames_from(*args):
                counted.frames += 1
                yield frame

        return call

    def counting(function: Callable[..., bool]) -> Callable[..., bool]:
        def call(*args: Any) -> bool:
            filled = function(*args)
            counted.sought += filled
            return filled

        return call

    for module, deep in ((frames_module, "_read_deep"), (times_module, "_show_deep")):
        monkeypatch.setattr(module, "frames_from", counting_frames(module.frames_from))
        monkeypatch.setattr(module, deep, counting(getattr(module, deep)))
    return counted


def outcome(read: Callable[..., NDArray[np.uint8]], path: Path, which: Any) -> str | bytes:
    try:
        return read(path, which, **SIZE).tobytes()
    except ClipRejected as rejected:
        return str(rejected)


def from_the_start(read: Callable[..., NDArray[np.uint8]], path: Path, which: Any) -> str | bytes:
    """The same, by a decode from the file's start."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (frames_module, times_module):
            patch.setattr(module, "MIN_SKIPPED", 10**9)
        return outcome(read, path, which)


@pytest.mark.parametrize("name", some([*FILMS, *REMUXED]))
def test_a_window_deep_in_a_video_is_that_of_the_full_decode(
    film: Callable[[str], Path], counts: Counts, name: str
) -> None:
    """By frames and by times; from an entry on in h264 that allows it, from the start in every other codec."""
    path, is_sought = film(name), (FILMS[name] if name in FILMS else REMUXED[name])[1]
    whole = np.empty((180, 48, 64, 3), np.uint8)
    frames_module._read_with_av(path, np.arange(180), whole, None, "")
    windows: list[list[int]] = [[*range(130, 139)], [149, 150, 151], [179, 160, 179]]
    for window in windows:
        assert np.array_equal(read_frames(path, window, **SIZE), whole[window]), window
    assert counts.sought == (len(windows) if is_sought else 0)
    counts.sought = 0
    times = [9.4 + k / 11 for k in range(7)]
    got = outcome(read_times, path, times)
    assert isinstance(got, bytes) and got == from_the_start(read_times, path, times)
    assert counts.sought == is_sought


SOUGHT = sorted(name for name, (_, is_sought) in FILMS.items() if is_sought)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_window(film: Callable[[str], Path], data: st.DataObject) -> None:
    """Also windows that begin early, end late, or lie beyond the end: the same frames, or the same rejection."""
    path = film(data.draw(st.sampled_from(sorted(BY_DEFAULT & set(SOUGHT)))))
    if data.draw(st.booleans()):
        frames = data.draw(st.lists(st.integers(100, NUM_FRAMES + 4), min_size=1, max_size=9))
        assert outcome(read_frames, path, frames) == from_the_start(read_frames, path, frames)
    else:
        start, rate = data.draw(st.floats(6, 12.2)), data.draw(st.sampled_from([4.0, 12.5, 16.0, 30.0]))
        times = [start + k / rate for k in range(data.draw(st.integers(1, 9)))]
        assert outcome(read_times, path, times) == from_the_start(read_times, path, times)


# ---- damage

WINDOW = range(160, 169)
TIMES = [10.0 + k / FPS for k in range(9)]
DAMAGED = ["h264.mp4", "h264.mkv", "h264_fragments.mp4", "h264_pyramid.mp4"]


def packets(path: Path) -> list[tuple[int, int]]:
    """Return the position and size of each packet of the video, bytes."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("name", some(DAMAGED))
@pytest.mark.parametrize("packet", [20, 153, 164, 172], ids=["before", "gop", "in", "behind"])
def test_a_hole_in_the_file(film: Callable[[str], Path], tmp_path: Path, name: str, packet: int) -> None:
    """Zeros where packets were: the full decode decides on the window, wherever the hole is."""
    data = bytearray(film(name).read_bytes())
    at = packets(film(name))[packet][0]
    data[at : at + 900] = bytes(900)
    path = tmp_path / name
    path.write_bytes(data)
    assert outcome(read_frames, path, WINDOW) == from_the_start(read_frames, path, WINDOW)


@pytest.mark.parametrize("name", some(DAMAGED))
def test_damage_inside_pictures_of_the_window(film: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """What a decoder conceals it makes of what it decoded before."""
    data, places = film(name).read_bytes(), packets(film(name))
    rng, path = np.random.default_rng(0), tmp_path / name
    for _ in range(4):
        damaged = np.frombuffer(data, np.uint8).copy()
        at, size = places[rng.integers(GOP * 5 + 1, 175)]  # behind the entry
        damaged[at + rng.integers(size // 2, size, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        assert outcome(read_frames, path, WINDOW) == from_the_start(read_frames, path, WINDOW)


def test_damage_inside_a_picture_long_before_the_window_leaves_the_window(
    film: Callable[[str], Path], tmp_path: Path, counts: Counts
) -> None:
    """The limit of the rule: the damage is not seen, though a decode from the start ends there."""
    data = bytearray(film("h264.mp4").read_bytes())
    picture = packets(film("h264.mp4"))[GOP + 5][0] + 5  # behind its length and type
    data[picture : picture + 4] = b"\x80\0\0\0"  # it begins at the first block, and is of no kind that there is
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    for read, which in ((read_frames, WINDOW), (read_times, TIMES)):
        assert "truncated" in str(from_the_start(read, path, which))
        assert outcome(read, path, which) == outcome(read, film("h264.mp4"), which)
    assert counts.sought == 4


@pytest.mark.parametrize("name", some(DAMAGED))
@pytest.mark.parametrize("percent", [60, 87])
def test_a_file_that_ends_early(film: Callable[[str], Path], tmp_path: Path, name: str, percent: int) -> None:
    data = film(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * percent // 100])
    for read, which in ((read_frames, WINDOW), (read_times, TIMES)):
        assert outcome(read, path, which) == from_the_start(read, path, which)


@pytest.mark.parametrize("name", some(SOUGHT))
def test_no_cut_packet_passes_as_whole(film: Callable[[str], Path], name: str) -> None:
    """Every packet of such a video is understood; parts of packets, and other parameters, are not."""
    with av.open(str(film(name))) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata or b""
        contents = [bytes(packet) for packet in container.demux(stream) if packet.size]
    header = read_header(extradata)
    entries = [is_entry(content, header, is_first=number == 0) for number, content in enumerate(contents)]
    assert entries == [number % GOP == 0 for number in range(NUM_FRAMES)]
    others = extradata[-40:]
    wrong = [len(others).to_bytes(4) + others + contents[40]]
    for content in contents[1:60]:
        wrong += [bytes(len(content)), content + b"\1", *(content[: len(content) * part // 4] for part in (1, 2, 3))]
    for content in wrong:
        with pytest.raises(ValueError):
            is_entry(content, header, is_first=False)
    for size in range(len(extradata) // 2):
        with pytest.raises((ValueError, IndexError)):
            read_header(extradata[:size])


# ---- what it saves


def test_only_what_is_needed_is_decoded(tmp_path: Path, counts: Counts) -> None:
    path = tmp_path / "film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24"]
    subprocess.run([*FFMPEG, *source, "-frames:v", "700", *X264, "-g", "48", "-pix_fmt", "yuv420p", path], check=True)
    late = range(650, 667)
    frames = read_frames(path, late, **SIZE)
    assert counts.sought == 1 and counts.frames <= 48 + 17 + 17
    counts.frames = 0
    assert np.array_equal(read_times(path, [k / 24 for k in late], **SIZE), frames)
    assert counts.sought == 2 and counts.frames <= 48 + 17 + 17
    counts.frames = 0
    read_frames(path, range(100, 117), **SIZE)
    read_frames(path, [5, 650], **SIZE)
    assert counts.sought == 2 and counts.frames == 0
    assert frames.tobytes() == from_the_start(read_frames, path, late)
