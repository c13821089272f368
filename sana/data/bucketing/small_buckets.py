"""Small buckets: those with too few train samples are kept, merged into larger ones, or oversampled.

None of this ever fails: a clip that cannot be merged stays in its bucket, and the facts say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sana.config.bucket import BucketConfig
from sana.data.bucketing.assignment import AssignedClips, nearest_buckets, needs_upscaling
from sana.data.bucketing.windows import Ints, num_windows
from sana.facts import SmallBucket


@dataclass(frozen=True)
class SmallBucketsResult:
    """The clips after small buckets were handled, and what was done with each of those."""

    assigned: AssignedClips
    draws_per_epoch: Ints  # int64 [buckets], of each bucket's train samples
    small_buckets: Mapping[str, SmallBucket]  # by name of the bucket


def handle_small_buckets(config: BucketConfig, assigned: AssignedClips) -> SmallBucketsResult:
    """Apply `bucket.small_buckets`.

    Which buckets are small is decided once, before any clip moves, so the result does not depend on an order.
    """
    num_buckets = len(assigned.buckets)
    train = assigned.kept & ~assigned.is_eval
    counts = np.bincount(
        assigned.bucket_codes[train], weights=_num_windows(assigned)[train], minlength=num_buckets
    ).astype(int)
    occupied = np.bincount(assigned.bucket_codes[assigned.kept], minlength=num_buckets) > 0
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
        bucket_codes = _merged(assigned, small=small, large=counts >= config.min_bucket_samples)
        for i, one in found.items():
            targets, clips = np.unique(bucket_codes[assigned.kept & (assigned.bucket_codes == i)], return_counts=True)
            moved = {str(assigned.buckets[j]): int(num) for j, num in zip(targets, clips, strict=True) if j != i}
            found[i] = replace(one, moved=moved, stayed=int(clips[targets == i].sum()))
        assigned = replace(assigned, bucket_codes=bucket_codes)
    small_buckets = {str(assigned.buckets[i]): one for i, one in found.items()}
    return SmallBucketsResult(assigned, draws_per_epoch, small_buckets)


def _num_windows(assigned: AssignedClips) -> Ints:
    counts = np.zeros(len(assigned.bucket_codes), np.int64)
    for rules_code, rules in enumerate(assigned.rules):
        rows = assigned.kept_rows(rules_code)
        counts[rows] = num_windows(rules, assigned.shapes.frames[rows], assigned.lengths[assigned.bucket_codes[rows]])
    return counts


def _merged(assigned: AssignedClips, *, small: np.ndarray, large: np.ndarray) -> Ints:
    """Return `bucket_codes` with the clips of small buckets moved to the nearest large one that their rules allow."""
    bucket_codes = assigned.bucket_codes.copy()
    for rules_code, rules in enumerate(assigned.rules):
        rows = assigned.kept_rows(rules_code)
        rows = rows[small[assigned.bucket_codes[rows]]]
        targets = [i for i, bucket in enumerate(assigned.buckets) if large[i] and bucket in rules.shapes]
        shapes, buckets = assigned.shapes.take(rows), [assigned.buckets[i] for i in targets]
        index = nearest_buckets(shapes, buckets, allow_upscale=rules.allow_upscale)
        moves = index >= 0 if rules.allow_upscale else (index >= 0) & ~needs_upscaling(shapes, index, buckets)
        bucket_codes[rows[moves]] = np.array(targets, np.int64)[index[moves]]
    return bucket_codes
