"""Masks: how much each latent pixel of a window weighs, from a picture or a video that goes with the clip.

A mask is read on the window's own frames and cut by the clip's own crop box, scaled if the mask has another size. A
still picture holds for all frames. Its brightness is the weight: white 1, black 0.

Shapes in this module: F frames, H height, W width (pixels); f h w the same after the VAE.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sana.bucket import SPATIAL_STRIDE, TEMPORAL_STRIDE, Bucket
from sana.data.file_heads import head_of
from sana.data.schemas import Reason
from sana.data.video.one_pass import read_windows
from sana.data.video.probe import probe_video
from sana.data.video.still import is_picture, read_weights
from sana.data.video.video import ClipRejected, crop_and_resize

# Video coding leaves black and white off by a few levels: so near to them counts as black and white.
BLACK, WHITE = 8, 247
_LEAST_WEIGHT = 1 / 64  # a window none of whose latent pixels weighs so much is empty: a few stray pixels are no object
_MAY_MOVE = (b"GIF8", b"\x89PNG")  # formats of which libav reads the frames
_NEAR_S = 0.002  # containers round times to milliseconds

Weights = NDArray[np.float32]  # [1, f, h, w] in [0, 1]


def read_masks(path: Path, windows: Sequence[Mapping[str, Any]]) -> Iterator[Weights | ClipRejected]:
    """Read the mask of each window of one clip that differ in `start_frame` only: its weights, or its rejection.

    A window has SAMPLE_KEY_COLUMNS of the clip; the clip's `width`, `height`, `num_frames`, `fps` and `duration_s`;
    and `inverted`, `keep_empty`: what its data set says of masks.

    Raises:
        OSError: the file is missing or the disk failed.
    """
    first = windows[0]
    bucket = Bucket.parse(first["bucket"])
    try:
        still = _of_still(path, first, bucket) if is_picture(path) else None
        made = _of_video(path, windows, bucket) if still is None else iter([still] * len(windows))
        for weights_or_not in made:
            yield weights_or_not if isinstance(weights_or_not, ClipRejected) else _finished(weights_or_not, first)
    except ClipRejected as rejected:
        yield from [rejected] * len(windows)


def to_latent_size(levels: NDArray[np.uint8]) -> Weights:
    """Reduce brightness, uint8 [F, H, W], to weights of latents, float32 [1, f, h, w].

    The mean over the 8 x 8 pixels of a latent pixel, and over the frames of a latent frame: the first alone, then four
    each, as the causal VAE groups them.
    """
    frames, height, width = levels.shape
    rows = np.clip(levels, BLACK, WHITE).reshape(frames, -1, SPATIAL_STRIDE, width).sum(axis=2, dtype=np.uint16)
    tiles = rows.reshape(frames, height // SPATIAL_STRIDE, -1, SPATIAL_STRIDE).sum(axis=3, dtype=np.uint16)
    areas = (tiles.astype(np.float32) / SPATIAL_STRIDE**2 - BLACK) / (WHITE - BLACK)
    groups = areas[1:].reshape(-1, TEMPORAL_STRIDE, *areas.shape[1:]).mean(axis=1)
    return np.concatenate([areas[:1], groups])[None].astype(np.float32)


def _brightness(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of red, green and blue, rounded: uint8 [F, H, W] of [F, H, W, 3]."""
    total = frames[..., 0].astype(np.uint16)
    total += frames[..., 1]
    total += frames[..., 2]
    return ((total + 1) // 3).astype(np.uint8)


def _finished(weights: Weights, window: Mapping[str, Any]) -> Weights | ClipRejected:
    if window["inverted"]:
        weights = 1 - weights
    if not window["keep_empty"] and weights.max() < _LEAST_WEIGHT:
        where = "white" if window["inverted"] else "black"
        return ClipRejected(Reason.MASK_EMPTY, f"the mask is {where} in all of the window's frames")
    return weights


def _of_still(path: Path, window: Mapping[str, Any], bucket: Bucket) -> Weights | None:
    """Return what a still picture weighs; None of a moving one that libav reads."""
    try:
        levels = read_weights(path)
    except ClipRejected as rejected:
        if rejected.reason == Reason.NO_VIDEO and head_of(path)[:4] in _MAY_MOVE:
            return None
        raise
    crop = _crop(window, width=levels.shape[1], height=levels.shape[0])
    picture = np.repeat(levels[..., None], 3, axis=2)
    resized = crop_and_resize(picture, 1.0, bucket.height, bucket.width, tuple(crop.values()))[..., 0]  # type: ignore[arg-type]
    frames = bucket.latent_shape[1]
    return np.repeat(to_latent_size(resized[None]), frames, axis=1)


def _of_video(path: Path, windows: Sequence[Mapping[str, Any]], bucket: Bucket) -> Iterator[Weights | ClipRejected]:
    first = windows[0]
    info = probe_video(path)
    if first["window_fps"] and first["fps"]:  # frames are chosen by time, so the mask may have a rate of its own
        slack = max(1 / info.fps, 1 / first["fps"]) + _NEAR_S
        if abs(info.duration_s - first["duration_s"]) > slack:
            lasts = f"the mask lasts {info.duration_s:.3f} s and its clip {first['duration_s']:.3f} s"
            raise ClipRejected(Reason.MASK_LENGTH, lasts)
    elif info.num_frames != first["num_frames"]:
        raise ClipRejected(
            Reason.MASK_LENGTH, f"the mask has {info.num_frames} frames and its clip {first['num_frames']}"
        )
    crop = {f"crop_{side}": edge for side, edge in _crop(first, width=info.width, height=info.height).items()}
    of_mask = [{**window, **crop, "treatment": ""} for window in windows]
    for frames in read_windows(path, of_mask):
        if isinstance(frames, ClipRejected):
            yield frames
        else:
            yield to_latent_size(_brightness(frames))


def _crop(window: Mapping[str, Any], *, width: int, height: int) -> dict[str, float]:
    """Return the clip's crop box in a mask of width x height pixels on display.

    Raises:
        ClipRejected: its sides are not in the ratio of the clip's, to a pixel.
    """
    across, down = width / window["width"], height / window["height"]
    if abs(width - window["width"] * down) > 1 and abs(height - window["height"] * across) > 1:
        raise ClipRejected(
            Reason.MASK_SIZE,
            f"the mask is {width}x{height} pixels (width x height) and its clip {window['width']}x{window['height']}",
        )
    return {
        "left": window["crop_left"] * across,
        "top": window["crop_top"] * down,
        "width": window["crop_width"] * across,
        "height": window["crop_height"] * down,
    }
