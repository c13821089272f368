"""What training and evaluation read: the rows of one split, samples by batches.

Shapes in this module: B samples of a batch; a latent is [16, f, h, w] after the VAE; a caption is [L, C], its real
tokens only. Ten million rows are Arrow and numpy columns; Python objects exist for the rows of a batch only.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from torch import Tensor

from sana.artifact import Artifact
from sana.data.loading.buffers import Buffers
from sana.data.shards.shard import DTYPES, DamagedSampleError, Location, damaged, gone, read_tensor
from sana.data.shards.shard_cache import ShardFiles
from sana.data.shards.shard_index import ShardIndex
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.store import Store

INDEX = "index.parquet"  # the one table of an encode artifact
LATENTS, CAPTIONS = "latents", "captions"  # names of tensors
REQUESTS = 16  # range requests in flight, of one process to S3
_ONCE: Mapping[str, float] = MappingProxyType({})  # every data set stands in an epoch once


@dataclass(frozen=True)
class Samples:
    """The rows of one split, sorted by sample_id; a row is an index into all of these columns.

    `tensors` says where each kind of tensor is, by its name. Of every kind row r has the one at place r; but captions,
    of which it has those at places `first_caption[r] ... + num_captions[r]`, in order of position.
    """

    split: str
    buckets: tuple[str, ...]  # sorted names, "81x480x832"
    bucket_codes: np.ndarray  # uint16 [rows], index into buckets
    draws_per_epoch: np.ndarray  # float64 [rows], how often it stands in an epoch, on average
    first_caption: np.ndarray  # int64 [rows]
    num_captions: np.ndarray  # int64 [rows], at least 1
    names: pa.ChunkedArray  # sample_id
    tensors: Mapping[str, ShardIndex]
    null_caption: Location

    def __len__(self) -> int:
        return len(self.bucket_codes)

    def owner(self, name: str, place: int) -> int:
        """Return the row that a tensor of a name belongs to; 0 for a caption that no row has."""
        if name != CAPTIONS:
            return place
        owners = np.flatnonzero((self.first_caption <= place) & (place < self.first_caption + self.num_captions))
        return int(owners[0]) if len(owners) else 0

    def sample_id(self, row: int) -> str:
        return str(self.names[row].as_py())

    def sample_ids(self) -> list[str]:
        """All names, in row order: Python objects, for the small eval split."""
        return list(self.names.to_pylist())


def load_samples(
    store: Store, latents: Artifact, captions: Artifact, split: str, *, draws_per_epoch: Mapping[str, float] = _ONCE
) -> Samples:
    """Join the indexes of `encode_latents` and `encode_captions` into the rows of one split, "train" or "eval".

    `draws_per_epoch` says how often each data set stands in an epoch; those that it does not name, once.

    Raises:
        SanaError: the split is empty, a sample has no caption, or there is not exactly one null caption.
    """
    index = read_table(store, latents, INDEX)
    rows = index.filter(pc.equal(index["split"], split)).sort_by("sample_id")
    if rows.num_rows == 0:
        raise SanaError(
            f"{store.uri(latents.files[INDEX].key)}: none of {index.num_rows} samples is in split {split!r}; "
            "change bucket.eval_fraction or bucket.holdout_sources, or add clips"
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
        missing = rows.filter(pc.is_null(code))
        raise SanaError(
            f"{missing.num_rows} of {rows.num_rows} {split} samples have no caption, first {missing['sample_id'][0]}; "
            "the two encode artifacts are of different data: run encode_captions again"
        )
    code = code.to_numpy()
    buckets = tuple(sorted(rows["bucket"].unique().to_pylist()))
    return Samples(
        split=split,
        buckets=buckets,
        bucket_codes=pc.index_in(rows["bucket"], value_set=pa.array(buckets)).to_numpy().astype(np.uint16),
        draws_per_epoch=_draws_per_epoch(rows, draws_per_epoch),
        first_caption=(np.cumsum(counts) - counts)[code],
        num_captions=counts[code],
        names=rows["sample_id"],
        tensors={LATENTS: ShardIndex.of(rows), CAPTIONS: ShardIndex.of(texts)},
        null_caption=Location.of(null[0]),
    )


def _draws_per_epoch(rows: pa.Table, of_dataset: Mapping[str, float]) -> np.ndarray:
    """Return each row's own draws_per_epoch times those of its data set."""
    datasets = rows["dataset"].combine_chunks().dictionary_encode()
    factors = np.array([of_dataset.get(name, 1.0) for name in datasets.dictionary.to_pylist()])
    return factors[datasets.indices.to_numpy()] * rows["draws_per_epoch"].to_numpy()


class Sample(NamedTuple):
    latents: Tensor  # float32 [16, f, h, w]
    caption: Tensor  # [L, C] in the stored dtype


class Batch(NamedTuple):
    tensors: dict[str, Tensor]  # by name, [B, ...] in the stored dtype; "latents": [B, 16, f, h, w]
    captions: list[Tensor]  # one of each row, [L, C] in the stored dtype


class Reader:
    """Reads samples from shards by byte range, each checked against its digest unless `verify` is off. Thread-safe."""

    def __init__(self, files: ShardFiles, samples: Samples, *, verify: bool = True) -> None:
        self.samples = samples
        self._files, self._verify = files, verify
        self._buffers = Buffers()
        self._null = read_tensor(files.store, samples.null_caption)
        # a disk answers at once; S3 after milliseconds, to many at a time
        self._requests = None if files.store.is_local else ThreadPoolExecutor(REQUESTS, thread_name_prefix="request")

    def num_captions(self, row: int) -> int:
        return int(self.samples.num_captions[row])

    def read(self, row: int, *, caption: int | None) -> Sample:
        """Read a row's latents and its caption number `caption`; None is the null caption.

        Raises:
            DamagedSampleError: stored bytes are not those that were written.
            IndexError: the row has no caption of that number.
        """
        batch = self.read_batch([(row, caption)])
        return Sample(batch.tensors[LATENTS][0].to(torch.float32), batch.captions[0])

    def read_batch(self, wanted: Sequence[tuple[int, int | None]]) -> Batch:
        """Read all tensors and one caption each of rows of one bucket, given as `(row, number of the caption)`."""
        tensors: dict[str, Tensor] = {}
        reads: list[tuple[ShardIndex, int, int, memoryview]] = []
        for name, where in self.samples.tensors.items():
            if name != CAPTIONS:
                tensors[name] = self._lend(where, [row for row, _ in wanted], reads)
        captions = []
        texts = self.samples.tensors[CAPTIONS]
        for row, number in wanted:
            if number is None:
                captions.append(self._null)
                continue
            if not 0 <= number < self.num_captions(row):
                raise IndexError(f"{self.samples.sample_id(row)} has no caption {number} of {self.num_captions(row)}")
            text = int(self.samples.first_caption[row]) + number
            caption = self._buffers.lend(int(texts.num_bytes[text]))
            captions.append(_tensor(caption, DTYPES[texts.dtype(text)], texts.shapes[text].tolist()))
            reads.append((texts, text, row, caption.data))
        if self._requests is None:
            for read in reads:
                self._fill(*read)
        else:
            requests = [self._requests.submit(self._fill, *read) for read in reads[1:]]
            self._fill(*reads[0])
            for request in requests:
                request.result()
        return Batch(tensors, captions)

    def _lend(self, where: ShardIndex, rows: list[int], reads: list[tuple[ShardIndex, int, int, memoryview]]) -> Tensor:
        """Return memory for a tensor of each of these rows, one after the other, and add what is to be read into it."""
        shape, dtype = where.shapes[rows[0]].tolist(), DTYPES[where.dtype(rows[0])]
        size = math.prod(shape) * dtype.itemsize
        memory = self._buffers.lend(len(rows) * size)
        reads += [(where, row, row, memory.data[at * size : (at + 1) * size]) for at, row in enumerate(rows)]
        return _tensor(memory, dtype, [len(rows), *shape])

    def _fill(self, where: ShardIndex, place: int, row: int, buffer: memoryview) -> None:
        """Read one tensor, which is at `where[place]` and belongs to sample `row`, straight into memory."""
        shard, start = where.shard(place), int(where.offsets[place])
        try:
            self._files.read_into(shard, start, buffer)
            if self._verify and not self._is_sound(where, place, buffer):
                self._files.read_again_into(shard, start, buffer)
                if not self._is_sound(where, place, buffer):
                    found = xxhash.xxh3_128_hexdigest(buffer)
                    raise self._named(row, damaged(self._files.store, where[place], found))
        except FileNotFoundError as error:
            raise self._named(row, gone(self._files.store, shard)) from error

    def _is_sound(self, where: ShardIndex, place: int, buffer: memoryview) -> bool:
        return xxhash.xxh3_128_digest(buffer) == where.digests[place].tobytes()

    def _named(self, row: int, error: DamagedSampleError) -> DamagedSampleError:
        return DamagedSampleError(f"sample {self.samples.sample_id(row)}: {error}")


def _tensor(memory: np.ndarray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(memory).view(dtype).view(*shape)
