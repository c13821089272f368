"""How fast are videos probed? The rate per core against the bare open of PyAV and of decord, clip by clip.

    python -m benchmarks.probe

Makes clips of 832x480x81 in a temporary folder, in each container, and adds the demo's. The three take turns on every
clip; CPU time is compared, so that other work on the machine counts for little. Threads are measured in wall time.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av  # before decord, whose libav would otherwise take its place
import decord
import imageio_ffmpeg

from sana.data.video.probe import probe_video

ROUNDS = 60
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", "570k", "-pix_fmt", "yuv420p"]
CLIPS = {  # name: ffmpeg's options
    "h264.mp4": H264,
    "h264_faststart.mp4": [*H264, "-movflags", "+faststart"],
    "h264.mkv": H264,
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "570k"],
    "mpeg4.avi": ["-c:v", "mpeg4", "-b:v", "900k"],
    "mpegts.mov": [*H264, "-f", "mpegts"],
}


def bare_open(path: Path) -> tuple[object, ...]:
    """Open a file and read what its header says: the least that any program can do."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        return stream.frames, context.width, context.height, stream.average_rate, stream.duration, context.pix_fmt


def decord_open(path: Path) -> tuple[int, float]:
    """Open a file with decord and read the number of frames and their rate."""
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return len(reader), reader.get_avg_fps()


def make_clips(folder: Path) -> dict[str, list[Path]]:
    source = ["-f", "lavfi", "-i", "testsrc2=size=832x480:rate=16,noise=alls=8:allf=t", "-frames:v", "81"]
    for name, options in CLIPS.items():
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *options, "-threads", "1", folder / name]
        subprocess.run(command, check=True)
    demo = sorted(Path("configs/demo/clips").glob("[bst][uko]*-0*.mp4"))
    return {name: [folder / name] for name in CLIPS} | {"the demo's clips": demo}


def cpu_ms(function: Callable[[Path], object], path: Path) -> float:
    start = time.process_time()
    function(path)
    return 1000 * (time.process_time() - start)


def clips_per_s(paths: list[Path], num_threads: int) -> float:
    with ThreadPoolExecutor(num_threads) as threads:
        start = time.perf_counter()
        list(threads.map(probe_video, paths))
        return len(paths) / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        sets = make_clips(Path(name))
        print("| clips | PyAV open, CPU ms | decord open | probe | rate against PyAV | against decord |")
        print("|---|---|---|---|---|---|")
        for label, paths in sets.items():
            times: list[tuple[float, ...]] = []
            for _ in range(max(2, ROUNDS // len(paths))):
                times += [tuple(cpu_ms(f, path) for f in (bare_open, decord_open, probe_video)) for path in paths]
            bare, other, probed = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"| {label} | {bare:.2f} | {other:.2f} | {probed:.2f} | {bare / probed:.2f} | {other / probed:.2f} |")
        many = sets["h264.mp4"] * 200
        rates = [(clips_per_s(many, 1), clips_per_s(many, 2)) for _ in range(5)]
        one, two = (max(column) for column in zip(*rates, strict=True))
        print(f"\nThreads: {one:.0f} clips/s with one, {two:.0f} with two ({two / one:.2f} times as many).")


if __name__ == "__main__":
    main()
