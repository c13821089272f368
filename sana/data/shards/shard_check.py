"""The check before training: every sample of a split, by sizes, shapes and headers. No tensor is read.

A run of a week must not fail on its third day for a shard that was missing on the first. Digests are checked whenever a
sample is read, and by `sana verify`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from sana.artifact import latest
from sana.bucket import Bucket
from sana.data.loading.loader import CAPTIONS, LATENTS, REQUESTS, Samples
from sana.data.shards.shard import DTYPES, DamagedSampleError, HeaderEntry, read_header
from sana.data.shards.shard_index import ShardIndex
from sana.data.tables import read_table
from sana.errors import SanaError, repair_hint
from sana.runtime.threads import in_threads
from sana.store import Store

_ENTRY_BYTES = 160  # of a shard's header, per tensor


class _References(NamedTuple):
    """The rows of a split's shard index that refer to one shard."""

    samples: Samples
    name: str  # of the tensors: latents, captions, ...
    rows: np.ndarray  # of the shard index, by offset

    @property
    def shard_index(self) -> ShardIndex:
        return self.samples.tensors[self.name]

    def sample(self, row: int) -> int:
        """Return the sample that a row of the shard index belongs to."""
        return self.samples.owner(self.name, row)


class _Problem(NamedTuple):
    samples: Samples
    sample: int  # its row in samples
    shard: str
    what: str


def check_samples(
    store: Store, splits: Sequence[Samples], *, caption_channels: int, on_shard: Callable[[int, int], None]
) -> None:
    """Check that all tensors of these splits are there, whole, and of the shapes that training takes.

    Of each shard that is referred to the size and the header are read: two small requests, several in flight.
    `on_shard(shards done, shards)` is called after each.

    Raises:
        DamagedSampleError: names the first sample that is not valid, its clip if known, its shard, and the repair.
    """
    for samples in splits:
        problem = _wrong_shape(samples, caption_channels)
        if problem is not None:
            repair = (
                f"make it again: sana run CONFIG --force {problem.shard.partition('/')[0]}"  # verify finds it valid
            )
            raise _error(store, problem, repair, more=0)
    references = _references(splits)
    problems = []
    depth = 1 if store.is_local else REQUESTS
    results = in_threads(
        lambda shard: _check_shard(store, shard, references[shard]),
        sorted(references),
        num_threads=depth,
        num_ahead=depth,
    )
    for done, problem in enumerate(results, start=1):
        problems += [problem] if problem is not None else []
        on_shard(done, len(references))
    if problems:
        raise _error(store, problems[0], repair_hint(deep=False), more=len(problems) - 1)


def _wrong_shape(samples: Samples, caption_channels: int) -> _Problem | None:
    """Return the first sample whose index row alone shows that it cannot be trained on."""
    latents, captions = samples.tensors[LATENTS], samples.tensors[CAPTIONS]
    shapes = np.array([Bucket.parse(bucket).latent_shape for bucket in samples.buckets], dtype=np.int32)
    needed = shapes[samples.bucket_codes]
    if latents.shapes.shape != needed.shape:
        return _Problem(
            samples, 0, latents.shard(0), f"has a latent of {latents.shapes.shape[1]} dimensions, needed are 4"
        )
    for row in np.flatnonzero((latents.shapes != needed).any(axis=1))[:1]:
        what = f"has a latent of {latents[row].shape}, its bucket {samples.buckets[samples.bucket_codes[row]]} needs "
        return _Problem(samples, int(row), latents.shard(row), what + str(tuple(needed[row].tolist())))
    if captions.shapes.shape[1] != 2:
        return _Problem(
            samples, 0, captions.shard(0), f"has captions of {captions.shapes.shape[1]} dimensions, needed are 2"
        )
    for row in np.flatnonzero((captions.shapes[:, 1] != caption_channels) | (captions.shapes[:, 0] < 1))[:1]:
        what = f"has a caption of {captions[row].shape}, the transformer needs (tokens, {caption_channels})"
        return _Problem(samples, samples.owner(CAPTIONS, int(row)), captions.shard(row), what)
    for name, index in samples.tensors.items():
        widths = np.array([DTYPES[dtype].itemsize if dtype in DTYPES else 0 for dtype in index.dtypes])
        for row in np.flatnonzero(index.num_bytes != index.shapes.prod(axis=1) * widths[index.dtype_codes])[:1]:
            what = f"has a tensor of {index[row].shape} in {index.dtype(row)} in {index.num_bytes[row]} bytes"
            return _Problem(samples, samples.owner(name, int(row)), index.shard(row), what)
    return None


def _references(splits: Sequence[Samples]) -> dict[str, list[_References]]:
    """Group the rows of all shard indexes by the shard they refer to; those of a shard by offset."""
    references: dict[str, list[_References]] = {}
    for samples in splits:
        for name, index in samples.tensors.items():
            order = np.lexsort((index.offsets, index.shard_codes))
            counts = np.bincount(index.shard_codes, minlength=len(index.shards))
            for shard, rows in zip(index.shards, np.split(order, np.cumsum(counts)[:-1]), strict=True):
                references.setdefault(shard, []).append(_References(samples, name, rows))
    return references


def _check_shard(store: Store, shard: str, references: list[_References]) -> _Problem | None:
    """Return the first row that the shard's header contradicts."""
    first = references[0]
    guess = 64 + _ENTRY_BYTES * sum(len(group.rows) for group in references)
    try:
        entries = read_header(store, shard, guess=guess)
    except DamagedSampleError as error:
        return _Problem(first.samples, first.sample(int(first.rows[0])), shard, str(error))
    for group in references:
        for row, found in _differing(group, entries):
            needed = group.shard_index[row]
            what = (
                f"has {f'{found.dtype} {found.shape}' if found else 'no tensor'} at byte {needed.offset}, where the "
                f"index row says {needed.dtype} {needed.shape}"
            )
            return _Problem(group.samples, group.sample(row), shard, what)
    return None


def _differing(group: _References, entries: dict[int, HeaderEntry]) -> Iterator[tuple[int, HeaderEntry | None]]:
    """Yield (row of the shard index, the header's entry at its offset) where the two differ."""
    index, rows = group.shard_index, group.rows
    shapes = map(tuple, index.shapes[rows].tolist())
    columns = (rows, index.offsets[rows], index.num_bytes[rows], index.dtype_codes[rows])
    for row, offset, num_bytes, dtype, shape in zip(*(column.tolist() for column in columns), shapes, strict=True):
        found = entries.get(offset)
        if found != (num_bytes, index.dtypes[dtype], shape):
            yield row, found


def _error(store: Store, problem: _Problem, repair: str, *, more: int) -> DamagedSampleError:
    sample_id = problem.samples.sample_id(problem.sample)
    others = f" {more} more shard{'s are' if more > 1 else ' is'} not valid." if more else ""
    return DamagedSampleError(
        f"sample {sample_id}{_clip(store, sample_id)} of the {problem.samples.split} split: "
        f"{store.uri(problem.shard)} {problem.what}.{others} Training was not started; {repair}"
    )


def _clip(store: Store, sample_id: str) -> str:
    """Return the video a sample was cut from, by the newest bucket artifact; empty if unknown."""
    try:
        windows = latest(store, "bucket")
        if windows is None:
            return ""
        clips = read_table(store, windows, "clips.parquet")
    except SanaError:  # this detail of an error message must not replace the error
        return ""
    for clip in clips.filter(pc.equal(clips["sample_id"], sample_id)).select(["dataset", "path"]).to_pylist():
        return f" ({clip['dataset']}: {clip['path']})"
    return ""
