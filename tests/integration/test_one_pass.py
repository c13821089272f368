"""Windows of one video, read in one pass: each is that which is read alone, bit for bit, or rejected as there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana.data.video import decode_by_time, frames, one_pass
from sana.data.video.bitstream import h264_seek
from sana.data.video.frames import read_window
from sana.data.video.one_pass import read_windows
from sana.data.video.video import ClipRejected
from tests.long_videos import BY_DEFAULT, FILMS, GOP, NUM_FRAMES, some

pytestmark = pytest.mark.timeout(60)


def rows(starts: Iterable[int], *, num_frames: int = 9, rate: float = 0.0) -> list[dict[str, Any]]:
    box = {"crop_left": 4.0, "crop_top": 0.0, "crop_width": 48.0, "crop_height": 48.0, "treatment": ""}
    same = {"bucket": f"{num_frames}x32x32", "window_fps": rate, **box}
    return [{"start_frame": start, **same} for start in starts]


def alone(path: Path, windows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    outcomes: list[bytes | str] = []
    for window in windows:
        try:
            outcomes.append(read_window(path, window).tobytes())
        except ClipRejected as rejected:
            outcomes.append(str(rejected))
    return outcomes


def together(path: Path, windows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    return [str(one) if isinstance(one, ClipRejected) else one.tobytes() for one in read_windows(path, windows)]


class Counts:
    def __init__(self) -> None:
        self.packets = self.frames = self.alone = 0


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """What passes read from here on, in videos in which 40 frames are worth a jump: packets, frames, windows alone."""
    counted = Counts()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def call(*args: Any) -> Iterator[Any]:
            for one in function(*args):
                setattr(counted, name, getattr(counted, name) + 1)
                yield one

        return call

    def read_alone(*args: Any) -> Any:
        counted.alone += 1
        return original(*args)

    original = one_pass._read_alone
    for module in (frames, one_pass, h264_seek, decode_by_time):
        monkeypatch.setattr(module, "MIN_SKIPPED", 40)
    monkeypatch.setattr(one_pass._Packets, "_read", counting("packets", one_pass._Packets._read))
    monkeypatch.setattr(one_pass, "_vouched", counting("frames", one_pass._vouched))
    monkeypatch.setattr(one_pass, "_from_start", counting("frames", one_pass._from_start))
    monkeypatch.setattr(one_pass, "_read_alone", read_alone)
    return counted


@pytest.mark.parametrize("name", some([*FILMS, "h264_turned.mp4", "h264_trimmed.mp4"]))
@pytest.mark.parametrize("rate", [0.0, 11.0])
def test_one_pass_gives_each_window_as_it_is_alone(
    film: Callable[[str], Path], counts: Counts, name: str, rate: float
) -> None:
    """Early and late ones, neighbours, overlapping ones, and one behind a gap."""
    windows = rows([0, 9, 12, 64, 70, 95], rate=rate)
    assert together(film(name), windows) == alone(film(name), windows)
    assert counts.alone == 0 and counts.packets <= NUM_FRAMES + 1 and counts.frames <= NUM_FRAMES


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_windows(film: Callable[[str], Path], data: st.DataObject) -> None:
    """Also such as lie behind the end, where all are rejected as they are alone."""
    path = film(data.draw(st.sampled_from(sorted(BY_DEFAULT))))
    rate, num_frames = data.draw(st.sampled_from([0.0, 4.0, 16.0, 30.0])), data.draw(st.sampled_from([1, 5, 13]))
    last = NUM_FRAMES * (rate or 16.0) / 16.0
    starts = data.draw(st.lists(st.integers(0, int(last)), min_size=2, max_size=6, unique=True))
    windows = rows(sorted(starts), num_frames=num_frames, rate=rate)
    assert together(path, windows) == alone(path, windows)


@pytest.mark.parametrize("rate", [0.0, 16.0])
def test_gaps_are_skipped_where_an_entry_allows_it(film: Callable[[str], Path], counts: Counts, rate: float) -> None:
    windows = rows([0, 70, 160], rate=rate)
    assert together(film("h264.mp4"), windows) == alone(film("h264.mp4"), windows)
    behind = 9 + 1 + h264_seek.NUM_BEHIND  # by time, the frame behind shows when the last one ends
    assert counts.alone == 0 and counts.packets <= NUM_FRAMES + 1
    assert counts.frames <= 10 + (70 % GOP + behind) + (160 % GOP + behind)
    counts.frames = 0
    assert together(film("hevc.mp4"), windows) == alone(film("hevc.mp4"), windows)
    assert counts.alone == 0 and counts.frames <= 170


def test_a_window_behind_the_end_is_rejected_and_the_others_are_not(
    film: Callable[[str], Path], counts: Counts
) -> None:
    windows = rows([20, 100, NUM_FRAMES - 9, NUM_FRAMES - 8])
    read = together(film("hevc.mp4"), windows)
    assert [isinstance(one, str) for one in read] == [False, False, False, True]
    assert counts.alone == 1


# ---- damage: which windows are read together must not show in what is made of them


def damaged(path: Path, folder: Path, *damage: tuple[int, int, bytes]) -> Path:
    """Copy a video with other bytes at (packet, place in it, bytes)."""
    with av.open(str(path)) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet, place, others in damage:
        data[places[packet] + place : places[packet] + place + len(others)] = others
    copy = folder / path.name
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("name", some(["h264.mp4", "h264.mkv", "h264_fragments.mp4", "hevc.mp4"]))
@pytest.mark.parametrize("rate", [0.0, 16.0])
def test_damage_does_what_it_does_to_each_window_alone(
    film: Callable[[str], Path], tmp_path: Path, name: str, rate: float
) -> None:
    rng, windows = np.random.default_rng(0), rows([0, 30, 66, 72, 120, 165], rate=rate)
    for packet in (24, 45, 66, 93, 171):
        holes = bytes(400) if packet % 2 else rng.bytes(3)
        path = damaged(film(name), tmp_path, (packet, int(rng.integers(5, 80)), holes))
        assert together(path, windows) == alone(path, windows), packet


def test_a_silently_lost_frame_is_counted(film: Callable[[str], Path], tmp_path: Path) -> None:
    """The decoder reports nothing and gives 189 frames: windows deep in the video are counted by packets."""
    path, windows = damaged(film("h264.mp4"), tmp_path, (35, 6, b"\xff")), rows([0, 30, 66, 90])
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == NUM_FRAMES - 1
    assert together(path, windows) == alone(path, windows)
    assert together(path, windows)[2:] == alone(film("h264.mp4"), windows)[2:]


def test_damage_after_a_window_reveals_damage_long_before_it(film: Callable[[str], Path], tmp_path: Path) -> None:
    before, behind = (35, 5, b"\x80\0\0\0"), (85, 5, b"\x80\0\0\0")
    windows = rows([70, 160])
    path = damaged(film("h264.mp4"), tmp_path, before)
    assert together(path, windows) == alone(path, windows) == alone(film("h264.mp4"), windows)
    path = damaged(film("h264.mp4"), tmp_path, before, behind)
    assert together(path, windows) == alone(path, windows)
    assert str(together(path, windows)[0]).startswith("truncated")
