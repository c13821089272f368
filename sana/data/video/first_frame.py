"""The picture that a sampled video begins with."""

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from sana.data.picture_file import opened_picture
from sana.data.video.video import crop_and_resize


def read_first_frame(path: str, *, height: int, width: int, where: str) -> NDArray[np.uint8]:
    """Read a picture upright, as the largest centred part of the frame's shape, scaled to it: uint8 [H, W, 3], RGB.

    Raises:
        ConfigError: it is not there, cannot be read, or is no picture; `where` names the setting that names it.
    """
    with opened_picture(path, where=where) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    return crop_and_resize(upright, 1.0, height, width, None)
