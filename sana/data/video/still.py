"""Still pictures: one decoded to RGB, upright, in sRGB, as the one frame of a clip or as a mask that holds for all.

Shapes in this module: H height, W width (pixels).
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from sana.data.file_heads import head_of, what_it_is
from sana.data.schemas import Reason
from sana.data.video.probe import VideoInfo
from sana.data.video.video import ClipRejected

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # as Pillow names them
MAX_PIXELS = 2**28  # 16384 x 16384: a small file may claim any size
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}  # degrees counter-clockwise that bring it upright
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_MAX_16_BIT = 65535
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|BM|II\*\0|MM\0\*|GIF8|.{4}ftypavi[fs]", re.DOTALL)
# what Pillow raises of damaged files, beside OSError
_DAMAGE = (SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does that may be still.

    Raises:
        OSError: the file is missing or the disk failed.
    """
    return _MAGIC.match(head_of(path)) is not None


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """Open a still picture, of which nothing is decoded yet.

    Raises:
        ClipRejected: empty, unreadable (no such picture, or larger than MAX_PIXELS), no_video (it moves), truncated.
        OSError: the file is missing or the disk failed.
    """
    head = head_of(path)
    if not head:
        raise ClipRejected("empty", "0 bytes")
    if not _MAGIC.match(head):
        raise ClipRejected("unreadable", what_it_is(head, "a picture") or "it is no picture that can be read")
    data = path.read_bytes()  # so that each error from here on is of the picture, and not of the disk
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise ClipRejected("no_video", _moves(picture))
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ClipRejected("unreadable", f"{width}x{height} pixels are more than {MAX_PIXELS} in all")
            yield picture
    except (OSError, *_DAMAGE) as error:
        if "truncated" in str(error) or isinstance(error, EOFError):
            raise ClipRejected("truncated", f"the picture ends early, at byte {len(data)}") from error
        raise ClipRejected("unreadable", f"the picture cannot be decoded ({error})"[:300]) from error


def _moves(picture: Image.Image) -> str:
    frames = getattr(picture, "n_frames", 1)
    if picture.format == "TIFF":
        return f"it has {frames} pages, and a still picture has one"
    return (
        f"it is a moving {picture.format} of {frames} frames, which is read as a video only if it ends in .gif or .apng"
    )


def probe_still(path: Path) -> VideoInfo:
    """Read a picture's facts, as those of a clip of one frame that is shown for no time. It is decoded once.

    Raises:
        ClipRejected: what `read_picture` raises.
        OSError: the file is missing or the disk failed.
    """
    with opened_picture(path) as picture:
        stored, kind, mode = picture.size, str(picture.format).lower(), picture.mode
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1), 0)
    height, width = read_picture(path).shape[:2]
    return VideoInfo(
        width=width,
        height=height,
        coded_width=stored[0],
        coded_height=stored[1],
        rotation_deg=turn,
        sample_aspect=1.0,
        fps=0.0,
        nominal_fps=0.0,
        variable_fps=False,
        num_frames=1,
        duration_s=0.0,
        codec=kind,
        pixel_format=mode.lower(),
        bit_depth=16 if mode.startswith("I") else 8,
        color_space="gbr",  # as ffprobe calls RGB, which it is by now, in sRGB
        color_primaries="bt709",
        color_transfer="iec61966-2-1",
        color_range="pc",
        field_order="progressive",
        has_audio=False,
    )


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Decode a picture: uint8 [H, W, 3], RGB, upright by its EXIF orientation.

    Colours are converted to sRGB by its ICC profile. What is transparent shows white. 16 bits are rounded to 8.

    Raises:
        ClipRejected: what `opened_picture` raises, and color: floats, whose white nothing states.
        OSError: the file is missing or the disk failed.
    """
    with opened_picture(path) as picture:
        picture.load()
        return np.asarray(_rgb(_upright(picture), _WHITE), np.uint8)


def still_frame(path: Path) -> NDArray[np.uint8] | None:
    """Decode a picture as `read_picture` does; None of what is a video: no picture, or one that moves.

    Raises:
        ClipRejected: the picture is damaged, or cannot be used.
        OSError: the file is missing or the disk failed.
    """
    if not is_picture(path):
        return None
    try:
        return read_picture(path)
    except ClipRejected as rejected:
        if rejected.reason == Reason.NO_VIDEO:
            return None
        raise


def read_weights(path: Path) -> NDArray[np.uint8]:
    """Decode a picture as a mask: uint8 [H, W], its brightness times its opacity; else as `read_picture`."""
    with opened_picture(path) as picture:
        picture.load()
        return np.asarray(_rgb(_upright(picture), _BLACK, profile=False).convert("L"), np.uint8)


def _upright(picture: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(picture)


def _rgb(picture: Image.Image, behind: tuple[int, int, int], *, profile: bool = True) -> Image.Image:
    """Return a picture in mode RGB; `behind` shows through what is transparent."""
    mode = picture.mode
    if mode == "F":
        raise ClipRejected("color", "its pixels are floats, and nothing says which of them is white")
    if mode == "I" or mode.startswith("I;"):  # 16 bits of gray
        gray = np.clip(np.asarray(picture).astype(np.int64), 0, _MAX_16_BIT)
        picture, mode = Image.fromarray(((gray + 128) // 257).astype(np.uint8)), "L"
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        colors = picture.convert("RGBA")
        ground = Image.new("RGBA", colors.size, (*behind, 255))
        colored = Image.alpha_composite(ground, colors).convert("RGB")
        colored.info = {key: value for key, value in picture.info.items() if key == "icc_profile"}
        picture, mode = colored, "RGB"
    converted = _by_profile(picture) if profile and picture.info.get("icc_profile") else None
    return converted if converted is not None else picture.convert("RGB")


def _by_profile(picture: Image.Image) -> Image.Image | None:
    """Return a picture in sRGB by its own profile; None if the profile is damaged, or of another kind of colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        if source.profile.xcolor_space.strip() != {"L": "GRAY", "P": "RGB", "1": "GRAY"}.get(
            picture.mode, picture.mode
        ):
            return None
        plain = picture.convert("RGB") if picture.mode == "P" else picture
        return ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
