"""What training and evaluation read: the rows of one split, the order of an epoch, one sample, and reading ahead.

Shapes in this module: a latent is [16, f, h, w] after the VAE; a caption is [L, C], its real tokens only.
Ten million rows are Arrow and numpy columns; Python objects exist for the rows of a batch only.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from sana.artifact import Artifact
from sana.data.manifest import read_table
from sana.data.schemas import LOCATION
from sana.data.shard import Location, read_tensor
from sana.errors import SanaError
from sana.store import Store

INDEX = "index.parquet"  # the one table of an encode artifact
_WHERE = [field.name for field in LOCATION]
_REPEATING = ["shard", "dtype"]  # few values in many rows: stored once

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Samples:
    """The rows of one split, sorted by sample_id; a row is an index into all of these columns.

    Captions of row r are rows `first_caption[r] ... + num_captions[r]` of `captions`, in order of position.
    """

    split: str
    buckets: tuple[str, ...]  # sorted names, "81x480x832"
    bucket_codes: np.ndarray  # uint16 [rows], index into buckets
    first_caption: np.ndarray  # int64 [rows]
    num_captions: np.ndarray  # int64 [rows], at least 1
    latents: pa.Table  # sample_id and LOCATION
    captions: pa.Table  # LOCATION
    null_caption: Location

    def __len__(self) -> int:
        return len(self.bucket_codes)

    def sample_id(self, row: int) -> str:
        return str(self.latents.column("sample_id")[row].as_py())

    def sample_ids(self) -> list[str]:
        """All names, in row order: Python objects, for the small eval split."""
        return list(self.latents.column("sample_id").to_pylist())


def load_samples(store: Store, latents: Artifact, captions: Artifact, split: str) -> Samples:
    """Join the indexes of `encode_latents` and `encode_captions` into the rows of one split, "train" or "eval".

    Raises:
        SanaError: the split is empty, a sample has no caption, or there is not exactly one null caption.
    """
    index = read_table(store, latents, INDEX)
    rows = index.filter(pc.equal(index["split"], split)).sort_by("sample_id")
    if rows.num_rows == 0:
        raise SanaError(
            f"{store.uri(latents.files[INDEX].key)}: none of {index.num_rows} samples is in split {split!r}; "
            "change bucket.eval_fraction or bucket.eval_sources, or add clips"
        )
    texts = read_table(store, captions, INDEX)
    null = texts.filter(pc.equal(texts["role"], "null")).to_pylist()
    if len(null) != 1:
        raise SanaError(
            f"{store.uri(captions.files[INDEX].key)} has {len(null)} null captions, need 1; run encode_captions again"
        )
    texts = texts.filter(pc.equal(texts["role"], split)).sort_by([("name", "ascending"), ("position", "ascending")])
    # equal names are neighbours now, so codes ascend and each name's captions are one range
    names = texts["name"].combine_chunks().dictionary_encode()
    counts = np.bincount(names.indices.to_numpy(), minlength=len(names.dictionary))
    code = pc.index_in(rows["clip_id"], value_set=names.dictionary)
    if code.null_count:
        lacking = rows.filter(pc.is_null(code))
        raise SanaError(
            f"{lacking.num_rows} of {rows.num_rows} {split} samples have no caption, first {lacking['sample_id'][0]}; "
            "the two encode artifacts are of different data: run encode_captions again"
        )
    code = code.to_numpy()
    buckets = tuple(sorted(rows["bucket"].unique().to_pylist()))
    return Samples(
        split=split,
        buckets=buckets,
        bucket_codes=pc.index_in(rows["bucket"], value_set=pa.array(buckets)).to_numpy().astype(np.uint16),
        first_caption=(np.cumsum(counts) - counts)[code],
        num_captions=counts[code],
        latents=_compact(rows.select(["sample_id", *_WHERE])),
        captions=_compact(texts.select(_WHERE)),
        null_caption=Location.of(null[0]),
    )


def _compact(table: pa.Table) -> pa.Table:
    for name in _REPEATING:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].dictionary_encode())
    return table.combine_chunks()


def epoch_plan(bucket_codes: np.ndarray, *, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """Return the global batches of one epoch, int64 [num_batches, batch_size] of rows: a pure function.

    The rows of a batch share one bucket. Every row stands in the plan; a bucket's last batch is filled up from that
    bucket's next shuffles, so at most `batch_size - 1` rows per bucket are repeats and a small bucket is no error.
    The number of batches is the same in every epoch.
    """
    counts = np.bincount(bucket_codes)
    by_bucket = np.split(np.argsort(bucket_codes, kind="stable"), np.cumsum(counts)[:-1])
    batches = [
        _fill(rows, batch_size, _generator(seed, epoch, 1 + code)) for code, rows in enumerate(by_bucket) if len(rows)
    ]
    plan = np.concatenate(batches)
    return plan[_generator(seed, epoch, 0).permutation(len(plan))]


def _fill(rows: np.ndarray, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    num_batches = -(-len(rows) // batch_size)
    num_shuffles = -(-num_batches * batch_size // len(rows))
    shuffled = np.concatenate([generator.permutation(rows) for _ in range(num_shuffles)])
    return shuffled[: num_batches * batch_size].reshape(num_batches, batch_size)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class Cursor:
    """Where a step stands in the data: `step` (optimizer steps done before it) alone determines its batch."""

    def __init__(self, bucket_codes: np.ndarray, *, seed: int, batch_size: int) -> None:
        self._codes, self._seed, self._batch_size = bucket_codes, seed, batch_size
        self.num_batches = int(sum(-(-count // batch_size) for count in np.bincount(bucket_codes)))
        self._epoch = -1
        self._plan = np.empty((0, batch_size), dtype=np.int64)

    def at(self, step: int) -> tuple[int, int]:
        """Return (epoch, position of the batch in it), both from 0."""
        return divmod(step, self.num_batches)

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of a step's global batch: int64 [batch_size]."""
        epoch, position = self.at(step)
        if epoch != self._epoch:
            self._plan = epoch_plan(self._codes, seed=self._seed, epoch=epoch, batch_size=self._batch_size)
            self._epoch = epoch
        return self._plan[position]


class Sample(NamedTuple):
    latents: Tensor  # float32 [16, f, h, w]
    caption: Tensor  # [L, C] in the stored dtype


class Reader:
    """Reads samples from shards by byte range, each checked against its digest. Thread-safe."""

    def __init__(self, store: Store, samples: Samples) -> None:
        self._store = store
        self._samples = samples
        self._null = read_tensor(store, samples.null_caption)

    def num_captions(self, row: int) -> int:
        return int(self._samples.num_captions[row])

    def read(self, row: int, *, caption: int | None) -> Sample:
        """Read a row's latents and its caption number `caption`; None is the null caption.

        Raises:
            DamagedSampleError: stored bytes are not those that were written.
            IndexError: the row has no caption of that number.
        """
        latents = read_tensor(self._store, _location(self._samples.latents, row)).to(torch.float32)
        if caption is None:
            return Sample(latents, self._null)
        if not 0 <= caption < self.num_captions(row):
            raise IndexError(f"{self._samples.sample_id(row)} has no caption {caption} of {self.num_captions(row)}")
        where = _location(self._samples.captions, int(self._samples.first_caption[row]) + caption)
        return Sample(latents, read_tensor(self._store, where))


def _location(table: pa.Table, row: int) -> Location:
    return Location.of(table.slice(row, 1).to_pylist()[0])


class Prefetcher(Generic[Item, Result]):
    """Runs `work` on items in threads, `depth` of them ahead, and gives the results in the items' order.

    What `work` raises is raised where its result would have come. Use it in a `with`: leaving it ends the threads.
    """

    def __init__(self, work: Callable[[Item], Result], items: Iterable[Item], *, depth: int) -> None:
        self._work = work
        self._items = iter(items)
        self._depth = depth
        self._pool = ThreadPoolExecutor(depth, thread_name_prefix="prefetch")
        self._ahead: deque[Future[Result]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        missing = self._depth + 1 - len(self._ahead)
        self._ahead.extend(self._pool.submit(self._work, item) for item in islice(self._items, missing))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft().result()
