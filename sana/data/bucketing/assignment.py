"""Assignment: which bucket a clip gets by its shape, or why none, and which crop of its frames is used.

All columns are numpy arrays over many clips. A million clips have a few hundred distinct shapes; each is decided once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sana.bucket import Bucket
from sana.config.bucket import BucketRules
from sana.data.bucketing.treatments import TreatedClips
from sana.data.bucketing.windows import Ints, Seeds, draw_bits
from sana.data.schemas import Reason

Floats = NDArray[np.float64]

_CROP_LEFT, _CROP_TOP = 2**32, 2**32 + 1  # random streams, beyond those of windows
_MAX_DISTANCES = 2**20  # between shapes and buckets, in memory at once
_SAME_ASPECT = 1e-9  # log aspects this close count as equal: rounding must not decide a tie

# Why a clip is rejected: the reason, and a template of its detail. Code 0: the clip is not rejected. Code CODING: for
# its fields or colours, by `treatments.rejection_of`.
REJECTIONS = (
    None,
    (Reason.ASPECT, "{size}; the longer side may be {rules.max_aspect_ratio:g} times the shorter"),
    (Reason.TOO_SMALL, "{size}; minimum_image_size is {rules.minimum_image_size:g} ({rules.resolution_type})"),
    (Reason.TOO_SHORT, "{frames}; min_frames is {rules.min_frames}"),
    (Reason.TOO_LONG, "{frames}; max_frames is {rules.max_frames}"),
    (Reason.TOO_SHORT, "{frames}; the shortest bucket needs {shortest}"),
    (Reason.TOO_SMALL, "{size} would have to be upscaled for {bucket}"),
    None,
)
ASPECT, BELOW_MINIMUM, FEW_FRAMES, MANY_FRAMES, NO_BUCKET, UPSCALED, CODING = range(1, len(REJECTIONS))


@dataclass(frozen=True)
class ClipShapes:
    """Size and length of clips: int64 columns [clips]."""

    width: Ints  # display pixels
    height: Ints
    frames: Ints  # at the target rate, if there is one

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "ClipShapes":
        return ClipShapes(self.width[rows], self.height[rows], self.frames[rows])

    def __len__(self) -> int:
        return len(self.width)


@dataclass(frozen=True)
class AssignedClips:
    """The bucket, rejection and split of each clip: int64 columns [clips] unless said."""

    rules: tuple[BucketRules, ...]
    rules_codes: Ints  # index into rules
    buckets: tuple[Bucket, ...]  # of all rules, sorted
    shapes: ClipShapes  # its frames are those that windows may use
    available: Ints  # frames before max_frames trims them
    bucket_codes: Ints  # index into buckets, -1 for none
    rejection_codes: Ints  # index into REJECTIONS, 0 for none
    is_eval: NDArray[np.bool_]
    treated: TreatedClips

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which clips give samples: bool [clips]."""
        kept: NDArray[np.bool_] = self.rejection_codes == 0
        return kept

    @property
    def lengths(self) -> Ints:
        """Frames of a sample of each bucket: int64 [buckets]."""
        return np.array([bucket.num_frames for bucket in self.buckets], np.int64)

    def kept_rows(self, rules_code: int, start: int = 0, stop: int | None = None) -> Ints:
        """Rows, among clips start ... stop, that are kept and follow `rules[rules_code]`: int64 [rows]."""
        kept = self.rejection_codes[start:stop] == 0
        return start + np.flatnonzero((self.rules_codes[start:stop] == rules_code) & kept)


def assign_buckets(rules: BucketRules, clips: ClipShapes, buckets: Sequence[Bucket]) -> tuple[Ints, Ints]:
    """Return (index into `buckets`, index into REJECTIONS) for each clip: int64 [clips] each.

    `buckets` are those of the rules. The first index is -1 where no bucket is short enough, the second 0 where the clip
    is kept.
    """
    bucket_codes = nearest_buckets(clips, buckets, allow_upscale=rules.allow_upscale)
    rejection_codes = np.zeros(len(clips), np.int64)

    def reject(code: int, where: NDArray[np.bool_]) -> None:
        rejection_codes[where & (rejection_codes == 0)] = code  # the first reason counts

    longer, shorter = np.maximum(clips.width, clips.height), np.minimum(clips.width, clips.height)
    reject(ASPECT, longer > rules.max_aspect_ratio * shorter)
    if rules.minimum_image_size is not None:
        size = picture_size(clips.width, clips.height, rules.resolution_type)
        reject(BELOW_MINIMUM, size < rules.minimum_image_size)
    reject(FEW_FRAMES, clips.frames < rules.min_frames)
    if rules.max_frames is not None and rules.too_long == "reject":
        reject(MANY_FRAMES, clips.frames > rules.max_frames)
    reject(NO_BUCKET, bucket_codes < 0)
    if not rules.allow_upscale:
        reject(UPSCALED, needs_upscaling(clips, bucket_codes, buckets))
    return bucket_codes, rejection_codes


def nearest_buckets(clips: ClipShapes, buckets: Sequence[Bucket], *, allow_upscale: bool) -> Ints:
    """Return the index of each clip's bucket, whatever the order of `buckets`; -1 where all are too long.

    Among the buckets that the clip has enough frames for: the nearest in log aspect ratio, then the longest, then the
    largest. Unless `allow_upscale`, among those of one aspect ratio a bucket that needs no upscaling comes first.
    """
    if not buckets:
        return np.full(len(clips), -1)
    order = sorted(range(len(buckets)), key=lambda i: (-buckets[i].num_frames, -_area(buckets[i]), buckets[i].width))
    length, height, width = _sides([buckets[i] for i in order])
    aspect = np.array([buckets[i].log_aspect for i in order])
    lengths = np.unique(length)
    distinct, inverse = _distinct(clips, np.searchsorted(lengths, clips.frames, side="right"), len(lengths) + 1)
    chosen = np.empty(len(distinct), np.int64)
    step = max(1, _MAX_DISTANCES // len(order))
    for start in range(0, len(distinct), step):
        some = distinct.take(np.arange(start, min(start + step, len(distinct))))
        fits = np.searchsorted(lengths, length)[None, :] < some.frames[:, None]
        distance = np.where(fits, np.abs(aspect - np.log(some.width / some.height)[:, None]), np.inf)
        best = fits & (distance <= distance.min(axis=1, keepdims=True) + _SAME_ASPECT)
        enough = (some.width[:, None] >= width) & (some.height[:, None] >= height) | allow_upscale
        rank = np.where(best, np.where(enough, 0, len(order)) + np.arange(len(order)), 2 * len(order))
        chosen[start : start + step] = np.where(fits.any(axis=1), np.array(order)[rank.argmin(axis=1)], -1)
    of_clips: Ints = chosen[inverse]
    return of_clips


def needs_upscaling(clips: ClipShapes, bucket_codes: Ints, buckets: Sequence[Bucket]) -> NDArray[np.bool_]:
    """Return which clips would have to be upscaled to cover their bucket: bool [clips], False for code -1."""
    _, height, width = _sides([*buckets, Bucket(1, 16, 16)])
    too_small = (clips.width < width[bucket_codes]) | (clips.height < height[bucket_codes])
    return (bucket_codes >= 0) & too_small


def picture_size(width: Ints, height: Ints, unit: str) -> Floats:
    """Return the size of a picture as `resolution_type` measures it: float64 [clips]."""
    if unit == "pixel":
        return np.minimum(width, height).astype(np.float64)
    area = width.astype(np.float64) * height
    return np.sqrt(area) if unit == "pixel_area" else area / 1e6


def crop_boxes(
    rules: BucketRules, clips: ClipShapes, bucket_codes: Ints, buckets: Sequence[Bucket], seeds: Seeds
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return (left, top, width, height) of the crop box of each clip, display pixels: float64 [clips] each.

    The box has the bucket's aspect ratio and lies inside the frame. With `crop: true` it also has the bucket's size,
    measured in the frame as it is, or as scaled down where it exceeds the maximum; it is never larger than the frame.
    """
    _, height, width = _sides(buckets)
    # display pixels per bucket pixel when the frame just covers the bucket
    scale: Floats = np.minimum(clips.height / height[bucket_codes], clips.width / width[bucket_codes])
    if rules.crop:
        scale = np.minimum(scale, _downscale(rules, clips))
    crop_width: Floats = width[bucket_codes] * scale
    crop_height: Floats = height[bucket_codes] * scale
    spare: tuple[Floats, Floats] = (clips.width - crop_width, clips.height - crop_height)
    if rules.crop_position == "random":
        left, top = (draw_bits(seeds, stream) / 2.0**64 for stream in (_CROP_LEFT, _CROP_TOP))
    else:
        left = top = np.full(len(clips), 0.5 if rules.crop_position == "center" else 0.0)
    return np.maximum(0.0, spare[0] * left), np.maximum(0.0, spare[1] * top), crop_width, crop_height


def _downscale(rules: BucketRules, clips: ClipShapes) -> Floats:
    """Return display pixels per pixel of the scaled-down frame: float64 [clips], 1 where it is not scaled."""
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


def _distinct(clips: ClipShapes, fits: Ints, num_fits: int) -> tuple[ClipShapes, NDArray[np.integer]]:
    """Return the distinct (width, height, fits) as shapes whose `frames` are `fits`, and each clip's index in them."""
    sizes = pa.array(clips.width << 32 | clips.height).dictionary_encode()
    keys = pa.array(sizes.indices.to_numpy().astype(np.int64) * num_fits + fits).dictionary_encode()
    size, fit = np.divmod(keys.dictionary.to_numpy(), num_fits)
    packed = sizes.dictionary.to_numpy()[size]
    return ClipShapes(packed >> 32, packed & (2**32 - 1), fit), keys.indices.to_numpy()
