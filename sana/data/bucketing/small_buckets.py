"""Small buckets: those with too few train samples stay, are merged into others, or stand in an epoch several times.

None of this ever fails: a clip that cannot be merged stays where it is, and the facts say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sana.config.bucket import BucketConfig
from sana.data.bucketing.assignment import Placed, nearest, upscales
from sana.data.bucketing.windows import Ints, num_windows
from sana.facts import SmallBucket


@dataclass(frozen=True)
class Settled:
    """The clips after it, the `draws_per_epoch` of each bucket's train samples (int64 [buckets]), and what was done."""

    placed: Placed
    draws_per_epoch: Ints
    small: Mapping[str, SmallBucket]


def settle(config: BucketConfig, placed: Placed) -> Settled:
    """Apply `small_buckets`. Which buckets are small is decided once, before any clip moves: no order enters."""
    num_buckets = len(placed.buckets)
    train = placed.kept & ~placed.is_eval
    counts = np.bincount(placed.code[train], weights=_num_windows(placed)[train], minlength=num_buckets).astype(int)
    occupied = np.bincount(placed.code[placed.kept], minlength=num_buckets) > 0
    small = occupied & (counts < config.min_bucket_samples)
    draws_per_epoch = np.ones(num_buckets, np.int64)
    found = {
        i: SmallBucket(int(counts[i]), draws_per_epoch=None, moved={}, stayed=None)
        for i in np.flatnonzero(small).tolist()
    }
    if config.small_buckets == "oversample":
        oversampled = small & (counts > 0)
        draws_per_epoch[oversampled] = -(-config.min_bucket_samples // counts[oversampled])
        found = {i: replace(one, draws_per_epoch=int(draws_per_epoch[i])) for i, one in found.items()}
    if config.small_buckets == "merge":
        code = _merged(placed, small=small, large=counts >= config.min_bucket_samples)
        for i, one in found.items():
            targets, clips = np.unique(code[placed.kept & (placed.code == i)], return_counts=True)
            moved = {str(placed.buckets[j]): int(num) for j, num in zip(targets, clips, strict=True) if j != i}
            found[i] = replace(one, moved=moved, stayed=int(clips[targets == i].sum()))
        placed = replace(placed, code=code)
    return Settled(placed, draws_per_epoch, {str(placed.buckets[i]): one for i, one in found.items()})


def _num_windows(placed: Placed) -> Ints:
    counts = np.zeros(len(placed.code), np.int64)
    for number, rules in enumerate(placed.rules):
        rows = placed.rows_of(number)
        counts[rows] = num_windows(rules, placed.shapes.frames[rows], placed.lengths[placed.code[rows]])
    return counts


def _merged(placed: Placed, *, small: np.ndarray, large: np.ndarray) -> Ints:
    """Return `code` with the clips of small buckets moved to the nearest large one that their own rules allow."""
    code = placed.code.copy()
    for number, rules in enumerate(placed.rules):
        rows = placed.rows_of(number)
        rows = rows[small[placed.code[rows]]]
        targets = [i for i, bucket in enumerate(placed.buckets) if large[i] and bucket in rules.shapes]
        shapes, buckets = placed.shapes.take(rows), [placed.buckets[i] for i in targets]
        index = nearest(shapes, buckets, allow_upscale=rules.allow_upscale)
        moves = index >= 0 if rules.allow_upscale else (index >= 0) & ~upscales(shapes, index, buckets)
        code[rows[moves]] = np.array(targets, np.int64)[index[moves]]
    return code
