"""What do tone mapping, deinterlacing and a named matrix cost beside plain decoding?

    python -m benchmarks.hdr

Makes videos of 1920x1080 in a temporary folder and reads a window of 17 frames of each, in turns with and without its
treatment: CPU time to pictures of 1920x1080, and to a bucket's 480x832, of which the resample is a part. One thread.
"""

import subprocess
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg

from sana.data.video.frames import read_frames

NUM_FRAMES, REPEATS = 17, 3
SOURCE = "testsrc2=size=1920x1080:rate=24,noise=alls=2:allf=t"
X265 = ["-c:v", "libx265", "-preset", "veryfast", "-crf", "24", "-x265-params", "log-level=error"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "24"]
HDR = "format=yuv420p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:range=tv:color_trc"
# what a video is: its filters, its encoder, and its treatment
VIDEOS = {
    "PQ, 10-bit HEVC": (f"{HDR}=smpte2084", X265, "pq"),
    "HLG, 10-bit HEVC": (f"{HDR}=arib-std-b67", X265, "hlg"),
    "untagged, h264": ("format=yuv420p", X264, "bt709"),
    "interlaced, h264": ("format=yuv420p,interlace", [*X264, "-flags", "+ildct+ilme"], "bwdif"),
}


def make_video(path: Path, filters: str, encoder: list[str]) -> Path:
    source = ["-f", "lavfi", "-i", SOURCE, "-frames:v", str(NUM_FRAMES + 8), "-vf", filters]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, *encoder, path], check=True)
    return path


def cpu_ms(path: Path, height: int, width: int, treatments: tuple[str, str]) -> list[float]:
    """The least CPU milliseconds a frame of each treatment, in turns."""
    least = [float("inf")] * len(treatments)
    for _ in range(REPEATS):
        for place, treatment in enumerate(treatments):
            start = time.process_time()
            read_frames(path, range(NUM_FRAMES), height=height, width=width, treatment=treatment)
            least[place] = min(least[place], (time.process_time() - start) / NUM_FRAMES * 1000)
    return least


def main() -> None:
    print("| video, 1920x1080 | treatment | pictures | plain, CPU ms a frame | treated | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (filters, encoder, treatment) in VIDEOS.items():
            path = make_video(Path(folder) / "video.mp4", filters, encoder)
            for height, width in ((1080, 1920), (480, 832)):
                plain, treated = cpu_ms(path, height, width, ("", treatment))
                size = f"{width}x{height}"
                print(f"| {name} | {treatment} | {size} | {plain:.1f} | {treated:.1f} | {treated / plain:.2f} |")


if __name__ == "__main__":
    main()
