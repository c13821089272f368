"""What a sampled video is given of another one: its end, its last frames, or what is around a mask.

Shapes in this module: F frames, H height, W width (pixels); h w the same in latents.
"""

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sana.bucket import SPATIAL_STRIDE, TEMPORAL_STRIDE, Bucket
from sana.config.places import at_home
from sana.config.sample import GivenVideoConfig, Keep
from sana.data.video.first_frame import read_first_frame
from sana.data.video.frames import read_frames
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from sana.errors import ConfigError

WHITE = 0.5  # of a mask: a gray edge belongs to the side that it is nearer to
_SAME_RATE = 0.1  # relative difference of frame rates that is not told

_log = logging.getLogger(__name__)


class GivenFrames(NamedTuple):
    """Frames that are given, uint8 [F, H, W, 3]: of a prefix these alone, else of the whole video."""

    frames: NDArray[np.uint8]
    keep: Keep
    num_latent_frames: int  # that are given of a prefix or a suffix
    mask: NDArray[np.float32] | None = None  # [h, w] in [0, 1]: its white is made, what is around it is given


def read_given(given: GivenVideoConfig, shape: Bucket, *, fps: float, where: str) -> GivenFrames:
    """Read what is given to a video of this shape and rate; cut to its shape around the centre.

    Raises:
        ConfigError: a file cannot be read, or the video is too short.
    """
    path = at_home(given.path)
    needed = given.frames if given.keep == "prefix" else shape.num_frames
    assert needed is not None  # a prefix has its number of frames
    try:
        info = probe_video(path)
        if info.num_frames < needed:
            raise ConfigError(f"{where}: {given.path} has {info.num_frames} frames; {needed} are needed")
        # a prefix goes on from where the other one ends; else both begin together
        first = info.num_frames - needed if given.keep == "prefix" else 0
        frames = read_frames(path, range(first, first + needed), height=shape.height, width=shape.width)
    except ClipRejected as error:
        raise ConfigError(f"{where}: {given.path} cannot be used as a video ({error}); use another") from error
    except OSError as error:
        raise ConfigError(f"{where}: {given.path} cannot be read: {error.strerror}; name a local video") from error
    if abs(info.fps / fps - 1) > _SAME_RATE:
        said = "%s: %.4g frames a second, and sample.fps is %g: its motion will be another"
        _log.warning(said, where, info.fps, fps)
    mask = None if given.mask is None else _weights(given.mask, shape, where=where)
    return GivenFrames(frames, given.keep, -(-(given.frames or 0) // TEMPORAL_STRIDE), mask)


def _weights(path: str, shape: Bucket, *, where: str) -> NDArray[np.float32]:
    picture = read_first_frame(path, height=shape.height, width=shape.width, where=f"{where}.mask")
    levels = picture.mean(axis=2, dtype=np.float32) / 255
    _, _, rows, columns = shape.latent_shape
    weights: NDArray[np.float32] = levels.reshape(rows, SPATIAL_STRIDE, columns, SPATIAL_STRIDE).mean(axis=(1, 3))
    if weights.max() < WHITE:
        raise ConfigError(f"{where}.mask: {path} has no white, where the video is made; paint what is to change white")
    return weights
