"""Copies of small videos that are large enough to look at: every pixel becomes a square, no colour is invented."""

from pathlib import Path

import numpy as np

from sana.data.video.video import opened, rgb, write_mp4

MIN_HEIGHT = 480
_MAX_PIXELS = 500 * 480 * 854  # of a copy: beyond, it would take long


def write_larger(source: Path, target: Path) -> bool:
    """Write a copy with each side a whole number of times as long; False if it is large enough, or too long.

    Raises:
        ClipRejected: it cannot be read.
    """
    with opened(source) as (container, stream):
        height, width = stream.codec_context.height, stream.codec_context.width
        times = -(-MIN_HEIGHT // max(1, height))
        if times < 2 or stream.frames * height * width * times**2 > _MAX_PIXELS:
            return False
        fps = float(stream.average_rate or 16)
        frames = np.stack([rgb(frame) for frame in container.decode(stream)])
    write_mp4(target, frames.repeat(times, axis=1).repeat(times, axis=2), fps=fps)
    return True
