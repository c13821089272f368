"""What do many windows of one long video cost, each by itself and in one pass, with the search for entries and without?

    python -m benchmarks.windows

81 frames a window, 832x480, h264 with an IDR picture every 250 frames: a video of 3,000 frames, and the same seven
times over. CPU seconds in one run; the frames must be the same to the bit.
"""

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from benchmarks.seek import NEVER, NUM_FRAMES, WINDOW, make_video
from sana.data.video import decode_by_time, frames, one_pass
from sana.data.video.bitstream import h264_seek
from sana.data.video.frames import read_window
from sana.data.video.one_pass import read_windows
from sana.data.video.video import ClipRejected

Windows = Sequence[Mapping[str, Any]]
Read = Callable[[Path, Windows], Iterator[NDArray[np.uint8] | ClipRejected]]


def repeated(path: Path, times_more: int) -> Path:
    """Write a video several times over, without encoding it again."""
    longer = path.with_name(f"longer-{path.name}")
    copied = ["-c", "copy", "-bsf:v", "filter_units=remove_types=6"]  # x264's name may stand in the first packet only
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", str(times_more), "-i", path]
    subprocess.run([*command, *copied, longer], check=True)
    return longer


def windows(num_frames: int, count: int) -> Windows:
    """Evenly spread over a video, the first one not at its start; one is in the middle."""
    box = {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 832.0, "crop_height": 480.0, "treatment": ""}
    starts = [(2 * k + 1) * num_frames // (2 * count) - WINDOW // 2 for k in range(count)]
    return [{"start_frame": start, "bucket": f"{WINDOW}x480x832", "window_fps": 0.0, **box} for start in starts]


def alone(path: Path, some: Windows) -> Iterator[NDArray[np.uint8]]:
    return (read_window(path, window) for window in some)


def skip_from(num_frames: int) -> None:
    """Let readers jump to an entry where at least so many frames need not be decoded."""
    frames.MIN_SKIPPED = decode_by_time.MIN_SKIPPED = h264_seek.MIN_SKIPPED = one_pass.MIN_SKIPPED = num_frames


def cpu_s(read: Read, path: Path, some: Windows, *, with_entries: bool) -> tuple[float, str]:
    """CPU seconds and a digest of the frames."""
    usual = h264_seek.MIN_SKIPPED
    skip_from(usual if with_entries else NEVER)
    digest, start = hashlib.blake2b(), time.process_time()
    for made in read(path, some):
        assert not isinstance(made, ClipRejected)
        digest.update(made.data)
    taken = time.process_time() - start
    skip_from(usual)
    return taken, digest.hexdigest()


def main() -> None:
    print(
        "| frames | windows | alone, from the start | alone, from entries | one pass, from the start | from entries |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        short = make_video(Path(folder) / "h264.mp4")
        for path, num_frames, counts in (
            (short, NUM_FRAMES, (30, 10, 1)),
            (repeated(short, 6), 7 * NUM_FRAMES, (5, 1)),
        ):
            for count in counts:
                some = windows(num_frames, count)
                found = [
                    cpu_s(read, path, some, with_entries=with_entries)
                    for read in (alone, read_windows)
                    for with_entries in (False, True)
                ]
                if len({digest for _, digest in found}) != 1:
                    raise SystemExit(f"{count} windows of {num_frames} frames differ")
                print(f"| {num_frames:,} | {count} | {' | '.join(f'{taken:.1f}' for taken, _ in found)} |", flush=True)


if __name__ == "__main__":
    main()
