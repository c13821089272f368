"""The order of an epoch: the rows of each global batch, a pure function of (buckets, draws, seed, epoch).

Ten million rows are numpy columns. This module knows rows and global batches only; `sana.training.batch` partitions a
batch among the ranks, so their number does not matter.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa


class _Group(NamedTuple):
    """Rows of a bucket with equal draws per epoch: each is drawn `whole` times, and `extra` of them once more."""

    indices: np.ndarray | slice  # of its rows, in the bucket's rows
    num_rows: int
    whole: int
    extra: int


class _Bucket(NamedTuple):
    code: int
    rows: np.ndarray  # ascending
    groups: list[_Group]

    @property
    def num_slots(self) -> int:
        """Slots in an epoch that its rows fill; the same in every epoch."""
        return sum(group.whole * group.num_rows + group.extra for group in self.groups)


def epoch_plan(
    bucket_codes: np.ndarray, draws_per_epoch: np.ndarray | float = 1.0, *, seed: int, epoch: int, batch_size: int
) -> np.ndarray:
    """Return the global batches of one epoch, int64 [num_batches, batch_size] of rows: a pure function.

    The rows of a batch share one bucket. `draws_per_epoch` (float [rows], or one number for all) says how often a row
    is in the plan: as often as its whole part; its fraction is the part of the bucket's rows with equal draws_per_epoch
    that is chosen again in each epoch for one more draw (at least one row if the whole part is 0, so that no bucket is
    left out). A row is drawn again only after all others of its bucket that have draws left. A bucket's last batch is
    filled up from the bucket's next shuffles, with at most `batch_size - 1` rows, so a small bucket is no error.
    The number of batches is the same in every epoch.
    """
    return _plan(_buckets(bucket_codes, draws_per_epoch), seed=seed, epoch=epoch, batch_size=batch_size)


def _plan(buckets: list[_Bucket], *, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    plan = np.empty((_num_batches(buckets, batch_size), batch_size), dtype=np.int64)
    begin = 0
    for bucket in buckets:
        end = begin + -(-bucket.num_slots // batch_size)
        _fill(plan[begin:end].reshape(-1), bucket, seed=seed, epoch=epoch)
        begin = end
    order: np.ndarray = plan[_generator(seed, epoch, 0).permutation(np.arange(len(plan), dtype=np.uint32))]
    return order


def _num_batches(buckets: list[_Bucket], batch_size: int) -> int:
    return sum(-(-bucket.num_slots // batch_size) for bucket in buckets)


def _buckets(bucket_codes: np.ndarray, draws_per_epoch: np.ndarray | float) -> list[_Bucket]:
    # 32 bits halve the memory traffic of the shuffles
    order = np.argsort(bucket_codes, kind="stable").astype(np.uint32)
    by_bucket = np.split(order, np.cumsum(np.bincount(bucket_codes))[:-1])
    draws_per_epoch = np.broadcast_to(np.asarray(draws_per_epoch, dtype=np.float64), bucket_codes.shape)
    all_equal = draws_per_epoch.min() == draws_per_epoch.max()
    found = []
    for code, rows in enumerate(by_bucket):
        if len(rows):
            groups = (
                _groups(draws_per_epoch[rows[:1]], len(rows))
                if all_equal
                else _groups(draws_per_epoch[rows], len(rows))
            )
            found.append(_Bucket(code, rows, groups))
    return found


def _groups(draws_per_epoch: np.ndarray, num_rows: int) -> list[_Group]:
    """Group a bucket's rows by their draws_per_epoch; an array of one number is that of all rows."""
    encoded = pa.array(draws_per_epoch).dictionary_encode()  # by hashing: numpy would sort all rows
    values, which = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    if len(values) == 1:
        return [_group(slice(None), num_rows, values[0])]
    groups = [(value, np.flatnonzero(which == number)) for number, value in enumerate(values)]
    return [_group(indices, len(indices), value) for value, indices in sorted(groups, key=lambda group: group[0])]


def _group(indices: np.ndarray | slice, num_rows: int, draws_per_epoch: float) -> _Group:
    whole = int(draws_per_epoch)
    extra = round((draws_per_epoch - whole) * num_rows)
    return _Group(indices, num_rows, whole, max(extra, 1) if whole == 0 else extra)


def _fill(slots: np.ndarray, bucket: _Bucket, *, seed: int, epoch: int) -> None:
    """Write a bucket's rows of one epoch into the slots of its batches, laid end to end."""
    generator = _generator(seed, epoch, 1 + bucket.code)
    rows = bucket.rows
    if [group[2:] for group in bucket.groups] == [(1, 0)]:
        shuffled = generator.permutation(rows)
    else:
        draws = _draws(bucket, seed, epoch)
        shuffled = _shuffle(rows, draws, generator)
        rows = rows[draws > 0]
    filled = len(shuffled)
    slots[:filled] = shuffled
    while filled < len(slots):
        more = generator.permutation(rows)[: len(slots) - filled]
        slots[filled : filled + len(more)] = more
        filled += len(more)


def _draws(bucket: _Bucket, seed: int, epoch: int) -> np.ndarray:
    """Return how often each row of a bucket is drawn in this epoch: int64 [rows]."""
    draws = np.empty(len(bucket.rows), dtype=np.int64)
    for number, group in enumerate(bucket.groups):
        of_group = np.full(group.num_rows, group.whole)
        # a random key of its own: these draws must not change the shuffles
        generator = _generator(seed, epoch, 1 + bucket.code, 1 + number)
        of_group[generator.choice(group.num_rows, group.extra, replace=False, shuffle=False)] += 1
        draws[group.indices] = of_group
    return draws


def _shuffle(rows: np.ndarray, draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shuffle the first draws of all rows, then the second draws of the rows that have two, and so on."""
    draw_number = np.arange(draws.sum()) - np.repeat(np.cumsum(draws) - draws, draws)
    if draws.max() <= np.iinfo(np.uint16).max:  # 16-bit numbers are sorted by radix
        draw_number = draw_number.astype(np.uint16)
    order = generator.permutation(np.arange(len(draw_number), dtype=np.uint32))
    order = order[np.argsort(draw_number[order], kind="stable")]
    rows_in_order: np.ndarray = np.repeat(rows, draws)[order]
    return rows_in_order


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class _Stream:
    """Batches without an end, by their number: those of epoch 0, then of epoch 1, and so on."""

    def __init__(self, buckets: list[_Bucket], seed: int, batch_size: int) -> None:
        self._buckets, self._seed, self._batch_size = buckets, seed, batch_size
        self.num_batches = _num_batches(self._buckets, batch_size)
        self._epoch = -1
        self._epoch_plan = np.empty((0, batch_size), dtype=np.int64)

    def batch(self, number: int) -> np.ndarray:
        epoch, position = divmod(number, self.num_batches)
        if epoch != self._epoch:
            self._epoch_plan = _plan(self._buckets, seed=self._seed, epoch=epoch, batch_size=self._batch_size)
            self._epoch = epoch
        batch: np.ndarray = self._epoch_plan[position]
        return batch


class Cursor:
    """The batch of any step: `step`, the number of optimizer steps done before it, alone determines it.

    With `image_every` n, steps n, 2n, 3n, ... take a batch of the bucket codes that `is_image` (bool [codes]), and all
    others one of the rest; both are shuffled in epochs of their own. Epochs are told of the rest.

    Raises:
        ValueError: with `image_every`, rows of one of the two kinds are missing.
    """

    def __init__(
        self,
        bucket_codes: np.ndarray,
        draws_per_epoch: np.ndarray | float = 1.0,
        *,
        seed: int,
        batch_size: int,
        image_every: int | None = None,
        is_image: np.ndarray | None = None,
    ) -> None:
        buckets, self._every = _buckets(bucket_codes, draws_per_epoch), image_every
        self._images: _Stream | None = None
        if image_every is not None:
            assert is_image is not None
            images = [bucket for bucket in buckets if is_image[bucket.code]]
            buckets = [bucket for bucket in buckets if not is_image[bucket.code]]
            if not images or not buckets:
                lacking = "of one frame" if not images else "of more than one frame"
                raise ValueError(
                    f"no sample is in a bucket {lacking}, so pictures cannot take every {image_every}. step"
                )
            self._images = _Stream(images, seed, batch_size)
        self._videos = _Stream(buckets, seed, batch_size)
        self.num_batches = self._videos.num_batches

    def at(self, step: int) -> tuple[int, int]:
        """Return (epoch, position of the batch in it), both from 0."""
        return divmod(step - self._num_images(step), self.num_batches)

    def epochs(self, step: int) -> float:
        """Return how many epochs `step` steps are, with a fraction."""
        return (step - self._num_images(step)) / self.num_batches

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of a step's global batch: int64 [batch_size]."""
        before = self._num_images(step)
        if self._images is not None and self._num_images(step + 1) > before:
            return self._images.batch(before)
        return self._videos.batch(step - before)

    def _num_images(self, step: int) -> int:
        """Return how many of the first `step` steps take a batch of pictures."""
        return step // self._every if self._every is not None else 0
