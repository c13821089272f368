"""The picture that a sampled video begins with: a given one, or that of a finished video."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
        picture = read_picture(Path(path).expanduser())
    except ClipRejected as error:
        raise ConfigError(f"{where}: {path} cannot be read as a picture ({error}); use a PNG, JPEG or WebP") from error
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}; name a local picture") from error
    return crop_and_resize(picture, 1.0, height, width, None)


def first_picture(path: Path) -> NDArray[np.uint8]:
    """Return the first frame of a video that was written here, as it is stored: uint8 [H, W, 3], RGB.

    Raises:
        ClipRejected: the file is damaged or empty.
        OSError: it cannot be read.
    """
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            return rgb(frame)
    raise ClipRejected("truncated", "it has no frame")
