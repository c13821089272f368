"""The loader of training and evaluation: the rows of one split, and samples read by batches.

Shapes in this module: B samples of a batch; a latent is [16, f, h, w] after the VAE; a caption is [L, C], its real
tokens only. Ten million rows are Arrow and numpy columns; Python objects exist for the rows of a batch only.
"""

import math
from collections.abc import Collection, Mapping, Sequence
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
from sana.data.shards.shard import DTYPES, DamagedSampleError, Location, damaged_tensor, missing_shard, read_tensor
from sana.data.shards.shard_cache import ShardFiles
from sana.data.shards.shard_index import ShardIndex
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.store import Store

INDEX = "index.parquet"  # the one table of an encode artifact
LATENTS, CAPTIONS, FEATURES = "latents", "captions", "features"  # names of tensors
REQUESTS = 16  # range requests in flight from one process to S3
_ONCE: Mapping[str, float] = MappingProxyType({})  # one draw per epoch for every data set
_NO_OTHERS: Mapping[str, Artifact] = MappingProxyType({})


@dataclass(frozen=True)
class Samples:
    """The rows of one split, sorted by sample_id; a row is an index into all of these columns.

    `tensors` has the shard index of each kind of tensor, by name. A row of samples has the tensor at the same row of
    the index; except captions: row r has `num_captions[r]` of them from `first_caption[r]` on, in order of position.
    """

    split: str
    buckets: tuple[str, ...]  # sorted names, "81x480x832"
    bucket_codes: np.ndarray  # uint16 [rows], index into buckets
    draws_per_epoch: np.ndarray  # float64 [rows], draws per epoch, on average
    first_caption: np.ndarray  # int64 [rows]
    num_captions: np.ndarray  # int64 [rows], at least 1
    names: pa.ChunkedArray  # sample_id
    datasets: tuple[str, ...]  # sorted ids
    dataset_codes: np.ndarray  # uint16 [rows], index into datasets
    tensors: Mapping[str, ShardIndex]
    null_caption: Location

    def __len__(self) -> int:
        return len(self.bucket_codes)

    def owner(self, name: str, index_row: int) -> int:
        """Return the row that a tensor, given by its row in the shard index, belongs to; 0 for an unused caption."""
        if name != CAPTIONS:
            return index_row
        first, end = self.first_caption, self.first_caption + self.num_captions
        owners = np.flatnonzero((first <= index_row) & (index_row < end))
        return int(owners[0]) if len(owners) else 0

    def tensor_size(self, name: str) -> int:
        """Return the length of the last dimension of a tensor, which all samples have alike; 0 where there is none."""
        index = self.tensors.get(name)
        return 0 if index is None else int(index.shapes[0, -1])

    def dataset(self, row: int) -> str:
        """Return the id of the data set that a row is of."""
        return self.datasets[int(self.dataset_codes[row])]

    def sample_id(self, row: int) -> str:
        return str(self.names[row].as_py())

    def sample_ids(self) -> list[str]:
        """Return all sample_ids in row order, as Python objects: for the small eval split."""
        return list(self.names.to_pylist())


def load_samples(
    store: Store,
    latents: Artifact,
    captions: Artifact,
    split: str,
    *,
    draws_per_epoch: Mapping[str, float] = _ONCE,
    others: Mapping[str, Artifact] = _NO_OTHERS,
) -> Samples:
    """Join the indexes of `encode_latents` and `encode_captions` into the rows of one split, "train" or "eval".

    `draws_per_epoch` is a factor by data set; 1 for those that it does not name. `others` are further tensors of each
    sample by name, from artifacts whose index has sample_id and LOCATION.

    Raises:
        SanaError: the split is empty, a sample lacks a caption or a tensor, or there is not exactly one null caption.
    """
    index = read_table(store, latents, INDEX)
    rows = index.filter(pc.equal(index["split"], split)).sort_by("sample_id")
    if rows.num_rows == 0:
        raise SanaError(
            f"{store.uri(latents.files[INDEX].key)}: none of {index.num_rows} samples is in split {split!r}; "
            "change bucket.eval_fraction or bucket.holdout, or add clips"
        )
    texts = read_table(store, captions, INDEX)
    null = texts.filter(pc.equal(texts["role"], "null")).to_pylist()
    if len(null) != 1:
        raise SanaError(
            f"{store.uri(captions.files[INDEX].key)} has {len(null)} null captions, need 1; run encode_captions again"
        )
    texts = texts.filter(pc.equal(texts["role"], split)).sort_by([("name", "ascending"), ("position", "ascending")])
    # sorted: codes ascend, and each name's captions are one range
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
    datasets = tuple(sorted(rows["dataset"].unique().to_pylist()))
    further = {name: _further(store, name, artifact, rows["sample_id"]) for name, artifact in others.items()}
    return Samples(
        split=split,
        buckets=buckets,
        bucket_codes=pc.index_in(rows["bucket"], value_set=pa.array(buckets)).to_numpy().astype(np.uint16),
        draws_per_epoch=_draws_per_epoch(rows, draws_per_epoch),
        first_caption=(np.cumsum(counts) - counts)[code],
        num_captions=counts[code],
        names=rows["sample_id"],
        datasets=datasets,
        dataset_codes=pc.index_in(rows["dataset"], value_set=pa.array(datasets)).to_numpy().astype(np.uint16),
        tensors={LATENTS: ShardIndex.of(rows), CAPTIONS: ShardIndex.of(texts), **further},
        null_caption=Location.of(null[0]),
    )


def _further(store: Store, name: str, artifact: Artifact, sample_ids: pa.ChunkedArray) -> ShardIndex:
    """Return the index of one further tensor of the samples, in their order."""
    index = read_table(store, artifact, INDEX)
    at = pc.index_in(sample_ids, value_set=index["sample_id"].combine_chunks())
    if at.null_count:
        missing = sample_ids.filter(pc.is_null(at))
        raise SanaError(
            f"{store.uri(artifact.files[INDEX].key)}: {at.null_count} of {len(sample_ids)} samples have no {name}, "
            f"first {missing[0]}; it is of other data: run {artifact.stage} again"
        )
    return ShardIndex.of(index.take(at))


def _draws_per_epoch(rows: pa.Table, of_dataset: Mapping[str, float]) -> np.ndarray:
    """Return each row's own draws_per_epoch times the factor of its data set: float64 [rows]."""
    datasets = rows["dataset"].combine_chunks().dictionary_encode()
    factors = np.array([of_dataset.get(name, 1.0) for name in datasets.dictionary.to_pylist()])
    draws: np.ndarray = factors[datasets.indices.to_numpy()] * rows["draws_per_epoch"].to_numpy()
    return draws


class Sample(NamedTuple):
    latents: Tensor  # float32 [16, f, h, w]
    caption: Tensor  # [L, C] in the stored dtype


class Batch(NamedTuple):
    tensors: dict[str, Tensor]  # by name, [B, ...] in the stored dtype; "latents": [B, 16, f, h, w]
    captions: list[Tensor]  # one per row, [L, C] in the stored dtype


class Reader:
    """Reads samples from shards by byte range, each checked against its digest unless `verify` is off. Thread-safe."""

    def __init__(self, files: ShardFiles, samples: Samples, *, verify: bool = True) -> None:
        self.samples = samples
        self._files, self._verify = files, verify
        self._buffers = Buffers()
        self._null = read_tensor(files.store, samples.null_caption)
        # a disk answers at once; S3 after milliseconds, to many requests at a time
        self._requests = None if files.store.is_local else ThreadPoolExecutor(REQUESTS, thread_name_prefix="request")

    def num_captions(self, row: int) -> int:
        return int(self.samples.num_captions[row])

    def read(self, row: int, *, caption: int | None) -> Sample:
        """Read a row's latents and its caption number `caption`; None is the null caption.

        Raises:
            DamagedSampleError: stored bytes are not those that were written.
            IndexError: the row has no caption with that number.
        """
        batch = self.read_batch([(row, caption)])
        return Sample(batch.tensors[LATENTS][0].to(torch.float32), batch.captions[0])

    def read_batch(self, wanted: Sequence[tuple[int, int | None]], *, without: Collection[str] = ()) -> Batch:
        """Read the tensors and one caption of rows of one bucket, given as `(row, number of the caption)`.

        `without` some tensors, by name.
        """
        tensors: dict[str, Tensor] = {}
        reads: list[tuple[ShardIndex, int, int, memoryview]] = []
        for name, index in self.samples.tensors.items():
            if name != CAPTIONS and name not in without:
                tensors[name] = self._allocate(index, [row for row, _ in wanted], reads)
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

    def _allocate(
        self, index: ShardIndex, rows: list[int], reads: list[tuple[ShardIndex, int, int, memoryview]]
    ) -> Tensor:
        """Return memory for a tensor [rows, ...] and append the reads that will fill it to `reads`."""
        shape, dtype = index.shapes[rows[0]].tolist(), DTYPES[index.dtype(rows[0])]
        size = math.prod(shape) * dtype.itemsize
        memory = self._buffers.lend(len(rows) * size)
        reads += [(index, row, row, memory.data[at * size : (at + 1) * size]) for at, row in enumerate(rows)]
        return _tensor(memory, dtype, [len(rows), *shape])

    def _fill(self, index: ShardIndex, index_row: int, row: int, buffer: memoryview) -> None:
        """Read the tensor at `index[index_row]`, which belongs to sample `row`, into memory."""
        shard, start = index.shard(index_row), int(index.offsets[index_row])
        try:
            self._files.read_into(shard, start, buffer)
            if self._verify and not self._is_valid(index, index_row, buffer):
                self._files.read_again_into(shard, start, buffer)
                if not self._is_valid(index, index_row, buffer):
                    found = xxhash.xxh3_128_hexdigest(buffer)
                    raise self._naming_sample(row, damaged_tensor(self._files.store, index[index_row], found))
        except FileNotFoundError as error:
            raise self._naming_sample(row, missing_shard(self._files.store, shard)) from error

    def _is_valid(self, index: ShardIndex, index_row: int, buffer: memoryview) -> bool:
        return bool(xxhash.xxh3_128_digest(buffer) == index.digests[index_row].tobytes())

    def _naming_sample(self, row: int, error: DamagedSampleError) -> DamagedSampleError:
        return DamagedSampleError(f"sample {self.samples.sample_id(row)}: {error}")


def _tensor(memory: np.ndarray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(memory).view(dtype).view(*shape)
