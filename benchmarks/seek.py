"""How long does a window deep in a long h264 video take, decoded from the last entry before it, or from the start?

    python -m benchmarks.seek

An entry is an IDR picture that decoding may begin with. Makes videos of 832x480, 3,000 frames, in a temporary folder
and reads 81 frames of each, first early, then late. CPU time is compared, in one run; the frames must be the same bits.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from sana.data.video import decode_by_time, frames
from sana.data.video.decode_by_time import read_times
from sana.data.video.frames import read_frames

FPS, NUM_FRAMES, WINDOW = 24, 3_000, 81
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", "1M"]  # an entry every 250 frames, x264's default
NAMES = ("h264.mp4", "h264.mkv")
NEVER = 10**9


def make_video(path: Path) -> Path:
    source = ["-f", "lavfi", "-i", f"testsrc2=size=832x480:rate={FPS},noise=alls=8:allf=t"]
    how = ["-frames:v", str(NUM_FRAMES), "-pix_fmt", "yuv420p", *X264]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *how, path], check=True)
    return path


def cpu_s(read: Callable[[], NDArray[np.uint8]], *, min_skipped: int) -> tuple[float, NDArray[np.uint8]]:
    """CPU seconds and frames of a read that seeks where at least `min_skipped` frames need not be decoded."""
    usual = frames.MIN_SKIPPED
    frames.MIN_SKIPPED = decode_by_time.MIN_SKIPPED = min_skipped
    start = time.process_time()
    got = read()
    taken = time.process_time() - start
    frames.MIN_SKIPPED = decode_by_time.MIN_SKIPPED = usual
    return taken, got


def main() -> None:
    print("| video, 832x480 | window of 81 frames | from the start, CPU s | from the entry | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            path = make_video(Path(folder) / name)
            for first in (600, NUM_FRAMES - 2 * WINDOW):
                numbers = range(first, first + WINDOW)
                for label, read in {
                    f"frames from {first:,} on": lambda p=path, n=numbers: read_frames(p, n, height=480, width=832),
                    f"times from {first / FPS:.0f} s on": lambda p=path, n=numbers: read_times(
                        p, [k / FPS for k in n], height=480, width=832
                    ),
                }.items():
                    from_entry, sought = cpu_s(read, min_skipped=frames.MIN_SKIPPED)
                    from_start, plain = cpu_s(read, min_skipped=NEVER)
                    if not np.array_equal(sought, plain):
                        raise SystemExit(f"{name}: the {label} differ")
                    ratio = from_start / from_entry
                    print(f"| {name} | {label} | {from_start:.2f} | {from_entry:.2f} | {ratio:.1f} |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
