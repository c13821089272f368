"""Files that are no video, cut or damaged are rejected, never silently shortened or padded with copied frames."""

import contextlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from tests.video_files import blank_packet, decode_all, make_audio, make_video, numbers, rejection
from tests.video_formats import NUM_FRAMES

pytestmark = pytest.mark.timeout(60)


def test_a_file_that_is_no_video_is_rejected_without_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
        assert rejection(probe_video, path) == expected, name
        assert rejection(read_frames, path, [0], height=64, width=96) == expected, name
    audio = make_audio(tmp_path / "audio.mp4")
    assert rejection(probe_video, audio) == rejection(read_frames, audio, [0], height=64, width=96) == "no_video"
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
def test_a_cut_file_is_rejected_or_counted_exactly(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS[name]
    data = make_video(tmp_path / f"whole.{ending}", num_frames=NUM_FRAMES, **options).read_bytes()
    header = data.find(b"mdat") + 8 if name.startswith("faststart") else len(data)
    path = tmp_path / f"cut.{ending}"
    for percent in (1, 10, 25, 40, 55, 70, 85, 95, 99):
        path.write_bytes(data[: len(data) * percent // 100])
        try:
            num_frames = probe_video(path).num_frames
        except ClipRejected as rejected:
            assert rejected.reason in ("truncated", "unreadable")
            assert rejected.reason == "truncated" or path.stat().st_size <= header, percent
            assert rejection(read_frames, path, range(NUM_FRAMES), height=64, width=96)
            continue
        assert numbers(read_frames(path, range(num_frames), height=64, width=96)) == list(range(num_frames))
        assert rejection(read_frames, path, [0, num_frames], height=64, width=96) == "truncated"


@pytest.mark.parametrize("name", CONTAINERS)
def test_damage_rejects_windows_after_it_and_no_others(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS[name]
    path = make_video(tmp_path / f"damaged.{ending}", num_frames=NUM_FRAMES, gop=8, **options)
    blank_packet(path, 24)
    assert numbers(read_frames(path, range(16), height=64, width=96)) == list(range(16))
    assert len({_outcome(path) for _ in range(4)}) == 1


@pytest.mark.parametrize("name", [*CONTAINERS, "ts"])
def test_any_damage_gives_the_same_frames_or_rejection_each_time(tmp_path: Path, name: str) -> None:
    ending, options = CONTAINERS.get(name, ("ts", {}))
    data = make_video(tmp_path / f"whole.{ending}", num_frames=NUM_FRAMES, **options).read_bytes()
    path = tmp_path / f"damaged.{ending}"
    rng = np.random.default_rng(0)
    for round_ in range(12):
        damaged = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(damaged), rng.choice([1, 2, 5, 20]))
        damaged[where] = rng.integers(0, 256, len(where))
        path.write_bytes(damaged.tobytes()[: rng.integers(1, len(damaged)) if round_ % 4 == 0 else None])
        with contextlib.suppress(ClipRejected):
            assert probe_video(path).num_frames > 0
        assert _outcome(path) == _outcome(path)


def _outcome(path: Path) -> tuple[str, ...]:
    """Return, for each prefix of the clip, the bytes read or the reason and detail of the rejection."""
    outcome = []
    for stop in (1, 8, 16, 24, 40):
        try:
            outcome.append(read_frames(path, range(stop), height=16, width=16).tobytes().hex())
        except ClipRejected as rejected:
            outcome.append(str(rejected))
    return tuple(outcome)


def test_undecodable_frames_are_never_replaced_by_copies(tmp_path: Path) -> None:
    """A stream cut out of a longer one, not from a key frame on (decord repeats the last frame at its end)."""
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
    assert rejection(read_frames, path, range(good + 1), height=64, width=96) == "truncated"
