"""The torture set: small files of every kind in use, made with ffmpeg, and ffmpeg's own decode of them.

Every video shows `picture(k)` with a colour gradient over it, so that frames show their number and colours are tested.
"""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from tests.video_files import picture

FPS, NUM_FRAMES, WIDTH, HEIGHT = 16, 18, 96, 64
FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-nostdin"]

H264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-bf", "2", "-g", "8"]
HEVC = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:pools=1:frame-threads=1:bframes=2"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "0", "-crf", "20"]
AV1 = ["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-crf", "20"]
MPEG4 = ["-c:v", "mpeg4", "-q:v", "2"]
_TWICE = "setpts=(N+3*gte(N\\,6)+5*gte(N\\,12))/16/TB"  # two pauses, as in a recording of a screen

# name of the file: ffmpeg's output options; the input is frames at FPS
VIDEOS: dict[str, list[str]] = {
    **{f"h264.{ending}": [*H264, "-pix_fmt", "yuv420p"] for ending in ("mp4", "mov", "mkv")},
    "h264.avi": ["-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-pix_fmt", "yuv420p"],  # AVI has no B-frames
    "h264_faststart.mp4": [*H264, "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    "h264_fragments.mp4": [*H264, "-pix_fmt", "yuv420p", "-movflags", "frag_keyframe"],
    "h264_no_edit_list.mp4": [*H264, "-pix_fmt", "yuv420p", "-use_editlist", "0"],
    "h264_negative_offsets.mp4": [*H264, "-pix_fmt", "yuv420p", "-movflags", "+negative_cts_offsets"],
    "mpegts.mov": [*H264, "-pix_fmt", "yuv420p", "-f", "mpegts"],  # a wrong extension, and a container without a table
    "h264_422.mp4": [*H264, "-pix_fmt", "yuv422p"],
    "h264_444.mkv": [*H264, "-pix_fmt", "yuv444p"],
    "h264_10bit.mp4": [*H264, "-pix_fmt", "yuv420p10le"],
    "h264_422_10bit.mov": [*H264, "-pix_fmt", "yuv422p10le"],
    **{f"hevc.{ending}": [*HEVC, "-pix_fmt", "yuv420p"] for ending in ("mp4", "mov", "mkv")},
    "hevc_10bit.mp4": [*HEVC, "-pix_fmt", "yuv420p10le"],
    "hevc_422_10bit.mkv": [*HEVC, "-pix_fmt", "yuv422p10le"],
    "hevc_444.mp4": [*HEVC, "-pix_fmt", "yuv444p"],
    **{f"vp9.{ending}": [*VP9, "-pix_fmt", "yuv420p"] for ending in ("mp4", "mkv", "webm")},
    "vp9_444.webm": [*VP9, "-pix_fmt", "yuv444p"],
    "vp9_10bit.webm": [*VP9, "-pix_fmt", "yuv420p10le", "-profile:v", "2"],
    **{f"av1.{ending}": [*AV1, "-pix_fmt", "yuv420p"] for ending in ("mp4", "mkv", "webm")},
    "av1_10bit.mp4": [*AV1, "-pix_fmt", "yuv420p10le"],
    **{f"mpeg4.{ending}": [*MPEG4, "-bf", "2"] for ending in ("mp4", "mov", "mkv")},
    "mpeg4.avi": MPEG4,
    "prores.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
    "varying_rate.mp4": [*H264, "-pix_fmt", "yuv420p", "-vf", _TWICE, "-fps_mode", "passthrough"],
    "varying_rate.mkv": [*H264, "-pix_fmt", "yuv420p", "-vf", _TWICE, "-fps_mode", "passthrough"],
    "wide_pixels.mp4": [*H264, "-pix_fmt", "yuv420p", "-vf", "setsar=4/3"],
    "tall_pixels.mkv": [*VP9, "-pix_fmt", "yuv420p", "-vf", "setsar=2/3"],
    "interlaced.mp4": [*H264, "-pix_fmt", "yuv420p", "-vf", "setfield=tff", "-flags", "+ilme+ildct"],
    "interlaced.avi": [*MPEG4, "-vf", "setfield=bff", "-flags", "+ilme+ildct"],
    "odd_size.webm": [*VP9, "-pix_fmt", "yuv420p", "-vf", "scale=97:63"],
    "odd_size.mp4": [*H264, "-pix_fmt", "yuv444p", "-vf", "scale=97:63"],
    "odd_size.avi": [*MPEG4, "-vf", "scale=97:63"],
    "one_frame.mp4": [*H264, "-pix_fmt", "yuv420p", "-frames:v", "1"],
    "one_frame.webm": [*VP9, "-pix_fmt", "yuv420p", "-frames:v", "1"],
    "full_range.mp4": [*H264, "-pix_fmt", "yuvj420p", "-color_range", "pc"],
    "bt709.mp4": [*H264, "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams=range=tv:"
                  "colorspace=bt709:color_primaries=bt709:color_trc=bt709"],
    "bt2020.mp4": [*HEVC, "-vf", "scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,setparams=range=tv:"
                   "colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"],
    "4k.mp4": [*H264, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-frames:v", "3", "-vf",
               "scale=3840:2160:flags=neighbor"],
}  # fmt: skip


def make_torture_set(folder: Path) -> None:
    """Write all files: those of VIDEOS first, then the others from them."""
    pictures = b"".join(colourful(k).tobytes() for k in range(NUM_FRAMES))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"]
    outputs = [part for name, how in VIDEOS.items() for part in ("-threads", "1", *how, str(folder / name))]
    subprocess.run([option for option in FFMPEG if option != "-nostdin"] + source + outputs, input=pictures, check=True)
    _remux(folder)
    _cut(folder)
    _damage(folder)
    _rename(folder)


def colourful(index: int) -> np.ndarray:
    """Draw frame `index` with a gradient of colours over it: uint8 [HEIGHT, WIDTH, 3]."""
    image = picture(index, width=WIDTH, height=HEIGHT).astype(np.int16)
    across, down = np.linspace(-30, 30, WIDTH)[None, :], np.linspace(-30, 30, HEIGHT)[:, None]
    image[..., 0] += across.astype(np.int16)
    image[..., 2] += (down - across / 2).astype(np.int16)
    return image.clip(0, 255).astype(np.uint8)


def _ffmpeg(*options: object) -> None:
    subprocess.run([*FFMPEG, *map(str, options)], check=True)


def _remux(folder: Path) -> None:
    """Rotate, trim and add audio without encoding again."""
    video, copy = folder / "h264.mp4", ("-c", "copy")
    for degrees in (90, 180, 270):
        _ffmpeg("-display_rotation", degrees, "-i", video, *copy, folder / f"rotated_{degrees}.mp4")
    _ffmpeg("-display_rotation", 90, "-i", video, *copy, folder / "rotated_90.mkv")
    _ffmpeg("-display_hflip", "-i", video, *copy, folder / "mirrored.mp4")
    _ffmpeg("-display_vflip", "-i", video, *copy, folder / "mirrored.mkv")
    _ffmpeg("-display_rotation", 90, "-i", folder / "wide_pixels.mp4", *copy, folder / "rotated_wide_pixels.mov")
    _ffmpeg("-ss", 5 / FPS, "-i", video, *copy, folder / "trimmed_start.mp4")  # an edit list hides frames 0 to 4
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    _ffmpeg("-i", video, *tone, *("-c:v", "copy", "-c:a", "aac"), folder / "with_audio.mp4")
    _ffmpeg(*tone, "-c:a", "aac", folder / "only_audio.mp4")
    cover = folder / "cover.png"
    _ffmpeg("-i", video, "-frames:v", 1, cover)
    art = ("-map", 0, "-map", 1, "-c:a", "aac", "-c:v", "copy", "-disposition:v", "attached_pic")
    _ffmpeg(*tone, "-i", cover, *art, folder / "audio_with_cover.mp4")
    cover.rename(folder / "a_picture.mp4")


def _cut(folder: Path) -> None:
    for name in ("h264.mp4", "h264_faststart.mp4"):
        data = (folder / name).read_bytes()
        for tenth in range(10):
            path = folder / f"cut_{tenth}_{name}"
            path.write_bytes(data[: max(1, len(data) * tenth // 10 + (len(data) // 20 if tenth == 9 else 0))])


def _damage(folder: Path) -> None:
    (folder / "zero_bytes.mp4").write_bytes(b"")
    (folder / "random_bytes.mkv").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "text.mov").write_bytes(b"<html>404 not found</html>\n" * 40)
    data = bytearray((folder / "h264_faststart.mp4").read_bytes())
    start = data.find(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (folder / "reserved_never_written.mp4").write_bytes(data)


def _rename(folder: Path) -> None:
    """Write videos under difficult names; padding after the video gives each another content."""
    data = (folder / "h264.mkv").read_bytes()
    names = [
        "two words.mkv",
        "na\u00efve \u732b.mkv",
        "new\nline.mkv",
        "a..b.mkv",
        "-i.mkv",
        "%03d.mkv",
        "a:b.mkv",
        "[x]*?.mkv",
    ]
    names += ["UPPER.MKV", "same_stem.mkv", "deep/er/video.mkv", "wrong_extension.mp4", "wrong_extension.avi"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        void = b"\xec" + bytes([0x80 + number]) + bytes(number)  # Matroska's own padding
        (folder / name).write_bytes(data + void)
    (folder / "same_stem.mp4").write_bytes((folder / "h264.mp4").read_bytes() + b"\0\0\0\x09free\1")
    for hidden in (".hidden.mkv", "..hidden.mkv"):
        (folder / hidden).write_bytes(data + b"\xec\x9e" + bytes(30))
    (folder / "deep/loop").symlink_to(folder, target_is_directory=True)
    (folder / "link_to_itself.mp4").symlink_to(folder / "link_to_itself.mp4")


def decode_by_ffmpeg(paths: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """Decode videos with ffmpeg, rotated upright: {name: uint8 [F * H * W * 3]}, pixels as stored (not made square)."""
    inputs = [part for path in paths for part in ("-threads", "1", "-i", f"file:{path}")]
    outputs: list[str] = []
    for index in range(len(paths)):
        how = ["-map", f"{index}:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo"]
        outputs += [*how, str(folder / f"{index}.raw")]
    subprocess.run([*FFMPEG, *inputs, *outputs], check=True)
    return {path.name: np.fromfile(folder / f"{index}.raw", np.uint8) for index, path in enumerate(paths)}
