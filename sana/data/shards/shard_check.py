"""The check before training: every sample of a split, by sizes, shapes and headers. No tensor is read.

A run of a week must not end in its third day at a shard that was gone on the first. Digests are checked whenever a
sample is read, and by `sana verify`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from sana.artifact import latest
from sana.bucket import Bucket
from sana.data.loading.loader import CAPTIONS, LATENTS, REQUESTS, Samples
from sana.data.shards.shard import DTYPES, DamagedSampleError, Entry, read_header
from sana.data.shards.shard_index import ShardIndex
from sana.data.tables import read_table
from sana.errors import SanaError, repair_hint
from sana.runtime.threads import in_threads
from sana.store import Store

_ENTRY_BYTES = 160  # of a header, for one tensor


class _Claim(NamedTuple):
    """Rows of a split that say where in one shard their tensors are."""

    samples: Samples
    name: str  # of its tensors
    rows: np.ndarray

    @property
    def where(self) -> ShardIndex:
        return self.samples.tensors[self.name]

    def row(self, place: int) -> int:
        """Return the sample whose tensor stands at a place of its locations."""
        return self.samples.owner(self.name, place)


class _Problem(NamedTuple):
    samples: Samples
    row: int  # of the sample
    shard: str
    what: str


def check_samples(
    store: Store, splits: Sequence[Samples], *, caption_channels: int, on_shard: Callable[[int, int], None]
) -> None:
    """Check that all tensors of these splits are there, whole, and of the shapes that training takes.

    Each shard that is referred to is asked for its size and its header: two small requests, several in flight.
    `on_shard(shards done, shards)` is called after each.

    Raises:
        DamagedSampleError: names the first sample that is not sound, its clip if known, its shard, and the remedy.
    """
    for samples in splits:
        problem = _wrong_shape(samples, caption_channels)
        if problem is not None:
            again = f"make it again: sana run CONFIG --force {problem.shard.partition('/')[0]}"  # verify finds it sound
            raise _error(store, problem, again, more=0)
    claims = _claims(splits)
    problems = []
    depth = 1 if store.is_local else REQUESTS
    results = in_threads(
        lambda shard: _check_shard(store, shard, claims[shard]), sorted(claims), num_threads=depth, num_ahead=depth
    )
    for done, problem in enumerate(results, start=1):
        problems += [problem] if problem is not None else []
        on_shard(done, len(claims))
    if problems:
        raise _error(store, problems[0], repair_hint(deep=False), more=len(problems) - 1)


def _wrong_shape(samples: Samples, caption_channels: int) -> _Problem | None:
    """Return the first row whose index entry alone says that it cannot be trained on."""
    latents, captions = samples.tensors[LATENTS], samples.tensors[CAPTIONS]
    shapes = np.array([Bucket.parse(bucket).latent_shape for bucket in samples.buckets], dtype=np.int32)
    needed = shapes[samples.bucket_codes]
    if latents.shapes.shape != needed.shape:
        return _Problem(samples, 0, latents.shard(0), f"has a latent of {latents.shapes.shape[1]} sides, needed are 4")
    for row in np.flatnonzero((latents.shapes != needed).any(axis=1))[:1]:
        what = f"has a latent of {latents[row].shape}, its bucket {samples.buckets[samples.bucket_codes[row]]} needs "
        return _Problem(samples, int(row), latents.shard(row), what + str(tuple(needed[row].tolist())))
    if captions.shapes.shape[1] != 2:
        return _Problem(
            samples, 0, captions.shard(0), f"has captions of {captions.shapes.shape[1]} sides, needed are 2"
        )
    for place in np.flatnonzero((captions.shapes[:, 1] != caption_channels) | (captions.shapes[:, 0] < 1))[:1]:
        what = f"has a caption of {captions[place].shape}, the transformer needs (tokens, {caption_channels})"
        return _Problem(samples, samples.owner(CAPTIONS, int(place)), captions.shard(place), what)
    for name, where in samples.tensors.items():
        widths = np.array([DTYPES[name].itemsize if name in DTYPES else 0 for name in where.dtypes])
        for place in np.flatnonzero(where.num_bytes != where.shapes.prod(axis=1) * widths[where.dtype_codes])[:1]:
            row = samples.owner(name, int(place))
            what = f"has a tensor of {where[place].shape} in {where.dtype(place)} in {where.num_bytes[place]} bytes"
            return _Problem(samples, row, where.shard(place), what)
    return None


def _claims(splits: Sequence[Samples]) -> dict[str, list[_Claim]]:
    """Group all rows by the shard they refer to; those of a shard by offset."""
    claims: dict[str, list[_Claim]] = {}
    for samples in splits:
        for name, where in samples.tensors.items():
            order = np.lexsort((where.offsets, where.shard_codes))
            counts = np.bincount(where.shard_codes, minlength=len(where.shards))
            for shard, rows in zip(where.shards, np.split(order, np.cumsum(counts)[:-1]), strict=True):
                claims.setdefault(shard, []).append(_Claim(samples, name, rows))
    return claims


def _check_shard(store: Store, shard: str, claims: list[_Claim]) -> _Problem | None:
    """Return the first row of a shard that the shard does not bear out."""
    first = claims[0]
    guess = 64 + _ENTRY_BYTES * sum(len(claim.rows) for claim in claims)
    try:
        entries = read_header(store, shard, guess=guess)
    except DamagedSampleError as error:
        return _Problem(first.samples, first.row(int(first.rows[0])), shard, str(error))
    for claim in claims:
        for place, found in _differing(claim, entries):
            needed = claim.where[place]
            what = (
                f"has {f'{found.dtype} {found.shape}' if found else 'no tensor'} at byte {needed.offset}, where the "
                f"index row says {needed.dtype} {needed.shape}"
            )
            return _Problem(claim.samples, claim.row(place), shard, what)
    return None


def _differing(claim: _Claim, entries: dict[int, Entry]) -> Iterator[tuple[int, Entry | None]]:
    where, rows = claim.where, claim.rows
    shapes = map(tuple, where.shapes[rows].tolist())
    columns = (rows, where.offsets[rows], where.num_bytes[rows], where.dtype_codes[rows])
    for place, offset, num_bytes, dtype, shape in zip(*(column.tolist() for column in columns), shapes, strict=True):
        found = entries.get(offset)
        if found != (num_bytes, where.dtypes[dtype], shape):
            yield place, found


def _error(store: Store, problem: _Problem, again: str, *, more: int) -> DamagedSampleError:
    sample_id = problem.samples.sample_id(problem.row)
    others = f" {more} more shard{'s are' if more > 1 else ' is'} not sound." if more else ""
    return DamagedSampleError(
        f"sample {sample_id}{_clip(store, sample_id)} of the {problem.samples.split} split: "
        f"{store.uri(problem.shard)} {problem.what}.{others} Training was not started; {again}"
    )


def _clip(store: Store, sample_id: str) -> str:
    """Return which video a sample was cut from, as the newest bucket artifact has it; empty if that is not known."""
    try:
        windows = latest(store, "bucket")
        if windows is None:
            return ""
        clips = read_table(store, windows, "clips.parquet")
    except SanaError:  # the message is about a damaged store: what it adds must not take its place
        return ""
    for clip in clips.filter(pc.equal(clips["sample_id"], sample_id)).select(["dataset", "path"]).to_pylist():
        return f" ({clip['dataset']}: {clip['path']})"
    return ""
