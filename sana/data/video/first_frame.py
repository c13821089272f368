"""The picture that a sampled video begins with, and pictures of finished videos."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sana.config.places import at_home
from sana.data.video.still import read_picture
from sana.data.video.video import ClipRejected, crop_and_resize, opened, rgb
from sana.errors import ConfigError


def read_first_frame(path: str, *, height: int, width: int, where: str) -> NDArray[np.uint8]:
    """Read a picture upright, as the largest centred part of the frame's shape, scaled to it: uint8 [H, W, 3], RGB.

    As pictures of data sets are read: what is transparent shows white.

    Raises:
        ConfigError: it is not there, cannot be read, or is no picture; `where` names the setting that names it.
    """
    try:
        picture = read_picture(at_home(path))
    except ClipRejected as error:
        raise ConfigError(f"{where}: {path} cannot be read as a picture ({error}); use a PNG, JPEG or WebP") from error
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}; name a local picture") from error
    return crop_and_resize(picture, 1.0, height, width, None)


def pictures_of_video(path: Path, number: int = 1) -> list[NDArray[np.uint8]]:
    """Return frames of a video that was written here, as they are stored: uint8 [H, W, 3], RGB.

    The first, and as many as are asked for, evenly spaced up to the last.

    Raises:
        ClipRejected: the file is damaged or empty.
        OSError: it cannot be read.
    """
    with opened(path) as (container, stream):
        last = max(0, stream.frames - 1)
        wanted = {round(i * last / max(1, number - 1)) for i in range(number)}
        found = []
        for place, frame in enumerate(container.decode(stream)):
            if place in wanted:
                found.append(rgb(frame))
            if place >= max(wanted):
                break
    if not found:
        raise ClipRejected("truncated", "it has no frame")
    return found
