"""Placing: which bucket a clip's shape gets, or why none, and which piece of its frames is used.

Numpy columns over many clips; a million clips have a few hundred distinct shapes, each decided once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sana.bucket import Bucket
from sana.config.bucket import BucketRules
from sana.data.bucketing.windows import Ints, Seeds, draw_bits
from sana.data.schemas import Reason

Floats = NDArray[np.float64]

_CROP_LEFT, _CROP_TOP = 2**32, 2**32 + 1  # numbers of draws, beyond those of windows
_TABLE_CELLS = 2**20  # distances held at once
_SAME = 1e-9  # log aspects nearer than this are of one ratio: ties must not be a matter of the last bit

# Why a clip is rejected: the reason, and its detail. Number 0 is a clip that is not.
REJECTIONS = (
    None,
    (Reason.ASPECT, "{size}; the longer side may be {rules.max_aspect_ratio:g} times the shorter"),
    (Reason.TOO_SMALL, "{size}; minimum_image_size is {rules.minimum_image_size:g} ({rules.resolution_type})"),
    (Reason.TOO_SHORT, "{frames}; min_frames is {rules.min_frames}"),
    (Reason.TOO_LONG, "{frames}; max_frames is {rules.max_frames}"),
    (Reason.TOO_SHORT, "{frames}; the shortest bucket needs {shortest}"),
    (Reason.TOO_SMALL, "{size} would have to be upscaled for {bucket}"),
)
ASPECT, BELOW_MINIMUM, FEW_FRAMES, MANY_FRAMES, NO_BUCKET, UPSCALED = range(1, len(REJECTIONS))


@dataclass(frozen=True)
class Shapes:
    """What is known of clips before they are placed: int64 columns [clips]."""

    width: Ints  # display pixels
    height: Ints
    frames: Ints  # at the target rate, where there is one

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Shapes":
        return Shapes(self.width[rows], self.height[rows], self.frames[rows])

    def __len__(self) -> int:
        return len(self.width)


@dataclass(frozen=True)
class Placed:
    """Columns over all clips: int64 [clips] unless said."""

    rules: tuple[BucketRules, ...]
    rule: Ints  # index into rules
    buckets: tuple[Bucket, ...]  # of all rules, sorted
    shapes: Shapes  # frames: those that windows may use
    available: Ints  # frames before max_frames trimmed them
    code: Ints  # index into buckets, -1 for none
    rejection: Ints  # index into REJECTIONS, 0 for none
    is_eval: NDArray[np.bool_]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which clips give samples: bool [clips]."""
        return self.rejection == 0

    @property
    def lengths(self) -> Ints:
        """Frames of a sample of each bucket: int64 [buckets]."""
        return np.array([bucket.num_frames for bucket in self.buckets], np.int64)

    def rows_of(self, number: int, start: int = 0, stop: int | None = None) -> Ints:
        """Those of the clips start ... stop that are kept and go by the rules of this number: int64 [rows]."""
        return start + np.flatnonzero((self.rule[start:stop] == number) & (self.rejection[start:stop] == 0))


def place(rules: BucketRules, clips: Shapes, buckets: Sequence[Bucket]) -> tuple[Ints, Ints]:
    """Return (index into `buckets`, number of the rejection) for each clip: int64 [clips] each.

    `buckets` are those of the rules. The index is -1 where no bucket is short enough.
    """
    code = nearest(clips, buckets, allow_upscale=rules.allow_upscale)
    rejection = np.zeros(len(clips), np.int64)

    def reject(number: int, where: NDArray[np.bool_]) -> None:
        rejection[where & (rejection == 0)] = number  # the first reason stands

    longer, shorter = np.maximum(clips.width, clips.height), np.minimum(clips.width, clips.height)
    reject(ASPECT, longer > rules.max_aspect_ratio * shorter)
    if rules.minimum_image_size is not None:
        size = picture_size(clips.width, clips.height, rules.resolution_type)
        reject(BELOW_MINIMUM, size < rules.minimum_image_size)
    reject(FEW_FRAMES, clips.frames < rules.min_frames)
    if rules.max_frames is not None and rules.too_long == "reject":
        reject(MANY_FRAMES, clips.frames > rules.max_frames)
    reject(NO_BUCKET, code < 0)
    if not rules.allow_upscale:
        reject(UPSCALED, upscales(clips, code, buckets))
    return code, rejection


def nearest(clips: Shapes, buckets: Sequence[Bucket], *, allow_upscale: bool) -> Ints:
    """Return the index of each clip's bucket, whatever the order of `buckets`; -1 where all are too long.

    Among the buckets that the clip has frames for: the nearest in log aspect ratio, then the longest, then the
    largest. Among those of one aspect ratio, one that would need no upscaling goes first unless `allow_upscale`.
    """
    if not buckets:
        return np.full(len(clips), -1)
    order = sorted(range(len(buckets)), key=lambda i: (-buckets[i].num_frames, -_area(buckets[i]), buckets[i].width))
    length, height, width = _sides([buckets[i] for i in order])
    aspect = np.array([buckets[i].log_aspect for i in order])
    lengths = np.unique(length)
    distinct, inverse = _distinct(clips, np.searchsorted(lengths, clips.frames, side="right"), len(lengths) + 1)
    chosen = np.empty(len(distinct), np.int64)
    step = max(1, _TABLE_CELLS // len(order))
    for start in range(0, len(distinct), step):
        some = distinct.take(np.arange(start, min(start + step, len(distinct))))
        fits = np.searchsorted(lengths, length)[None, :] < some.frames[:, None]
        distance = np.where(fits, np.abs(aspect - np.log(some.width / some.height)[:, None]), np.inf)
        best = fits & (distance <= distance.min(axis=1, keepdims=True) + _SAME)
        enough = (some.width[:, None] >= width) & (some.height[:, None] >= height) | allow_upscale
        rank = np.where(best, np.where(enough, 0, len(order)) + np.arange(len(order)), 2 * len(order))
        chosen[start : start + step] = np.where(fits.any(axis=1), np.array(order)[rank.argmin(axis=1)], -1)
    return chosen[inverse]


def upscales(clips: Shapes, code: Ints, buckets: Sequence[Bucket]) -> NDArray[np.bool_]:
    """Return which clips would have to grow to cover their bucket; none where the code is -1."""
    _, height, width = _sides([*buckets, Bucket(1, 16, 16)])
    return (code >= 0) & ((clips.width < width[code]) | (clips.height < height[code]))


def picture_size(width: Ints, height: Ints, unit: str) -> Floats:
    """Return the size of a picture as `resolution_type` measures it: float64 [clips]."""
    if unit == "pixel":
        return np.minimum(width, height).astype(np.float64)
    area = width.astype(np.float64) * height
    return np.sqrt(area) if unit == "pixel_area" else area / 1e6


def crop_boxes(
    rules: BucketRules, clips: Shapes, code: Ints, buckets: Sequence[Bucket], seeds: Seeds
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return (left, top, width, height) of the piece of each clip's frames, display pixels: float64 [clips] each.

    It has the bucket's aspect and lies inside the frame. With `crop: true` it has the bucket's size as well, in
    the frame as it is, or as scaled down when it is larger than the maximum; but never more than the frame.
    """
    _, height, width = _sides(buckets)
    # display pixels per bucket pixel when the frame just covers the bucket
    scale: Floats = np.minimum(clips.height / height[code], clips.width / width[code])
    if rules.crop:
        scale = np.minimum(scale, _shrink(rules, clips))
    used_width: Floats = width[code] * scale
    used_height: Floats = height[code] * scale
    over: tuple[Floats, Floats] = (clips.width - used_width, clips.height - used_height)
    if rules.crop_position == "random":
        left, top = (draw_bits(seeds, number) / 2.0**64 for number in (_CROP_LEFT, _CROP_TOP))
    else:
        left = top = np.full(len(clips), 0.5 if rules.crop_position == "center" else 0.0)
    return np.maximum(0.0, over[0] * left), np.maximum(0.0, over[1] * top), used_width, used_height


def _shrink(rules: BucketRules, clips: Shapes) -> Floats:
    """Display pixels per pixel of the frame after it was scaled down; 1 where it is not larger than the maximum."""
    if rules.maximum_image_size is None or rules.target_downsample_size is None:
        return np.ones(len(clips))
    size = picture_size(clips.width, clips.height, rules.resolution_type)
    ratio = size / rules.target_downsample_size
    return np.where(size > rules.maximum_image_size, np.sqrt(ratio) if rules.resolution_type == "area" else ratio, 1.0)


def _area(bucket: Bucket) -> int:
    return bucket.height * bucket.width


def _sides(buckets: Sequence[Bucket]) -> tuple[Ints, Ints, Ints]:
    columns = np.array([(bucket.num_frames, bucket.height, bucket.width) for bucket in buckets], np.int64)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _distinct(clips: Shapes, fits: Ints, num_fits: int) -> tuple[Shapes, NDArray[np.integer]]:
    """Return the distinct (width, height, fits) as Shapes whose `frames` are `fits`, and each clip's place in them."""
    sizes = pa.array(clips.width << 32 | clips.height).dictionary_encode()
    keys = pa.array(sizes.indices.to_numpy().astype(np.int64) * num_fits + fits).dictionary_encode()
    size, fit = np.divmod(keys.dictionary.to_numpy(), num_fits)
    packed = sizes.dictionary.to_numpy()[size]
    return Shapes(packed >> 32, packed & (2**32 - 1), fit), keys.indices.to_numpy()
