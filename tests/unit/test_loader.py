"""Laws of what training reads: the join, samples and batches, reading ahead."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sana.arrow import to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.data.loading.loader import INDEX, Reader, load_samples
from sana.data.shards import shard_cache
from sana.data.shards.shard import DamagedSampleError, Location, read_tensor
from sana.data.shards.shard_cache import ShardFiles
from sana.data.tables import read_table
from sana.errors import SanaError
from tests.training_store import BUCKETS, NUM_EVAL, NUM_TRAIN, Encoded, build_encoded

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    return build_encoded(tmp_path / "store")


def test_the_join_is_sorted_and_complete(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    assert len(samples) == NUM_TRAIN
    assert samples.sample_ids() == [f"clip{i:04d}-0" for i in range(NUM_TRAIN)]
    assert samples.buckets == BUCKETS
    assert [samples.buckets[code] for code in samples.bucket_codes] == [BUCKETS[i % 3 % 2] for i in range(NUM_TRAIN)]
    assert samples.num_captions.tolist() == [1 + i % 2 for i in range(NUM_TRAIN)]
    assert len(load_samples(encoded.store, encoded.latents, encoded.captions, "eval")) == NUM_EVAL


def test_a_sample_is_what_was_stored(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    reader = Reader(ShardFiles(encoded.store), samples)
    texts = read_table(encoded.store, encoded.captions, INDEX).to_pylist()
    lengths = {(row["name"], row["position"]): row["shape"][0] for row in texts}
    for row in range(len(samples)):
        for number in range(reader.num_captions(row)):
            sample = reader.read(row, caption=number)
            assert sample.latents.dtype == torch.float32
            assert tuple(sample.latents.shape) in ((16, 2, 8, 12), (16, 2, 12, 8))
            assert sample.caption.shape == (lengths[f"clip{row:04d}", number], 16)
    assert reader.read(0, caption=None).caption.shape == (lengths["", 0], 16)
    assert not torch.equal(reader.read(1, caption=0).caption[:3], reader.read(1, caption=1).caption[:3])
    with pytest.raises(IndexError, match="clip0000-0 has no caption 1 of 1"):
        reader.read(0, caption=1)


def test_a_batch_is_its_samples(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    reader = Reader(ShardFiles(encoded.store), samples)
    rows = np.flatnonzero(samples.bucket_codes == 0).tolist()
    wanted = [(row, reader.num_captions(row) - 1 if row % 3 else None) for row in rows]
    read = reader.read_batch(wanted)
    latents, captions = read.tensors["latents"], read.captions
    assert latents.dtype == torch.float16 and captions[0].dtype == torch.bfloat16
    for latent, caption, (row, number) in zip(latents, captions, wanted, strict=True):
        alone = reader.read(row, caption=number)
        assert torch.equal(latent.float(), alone.latents)
        assert torch.equal(caption, alone.caption)
        stored = read_tensor(encoded.store, samples.tensors["latents"][row])
        assert torch.equal(latent, stored)


def test_a_batch_has_every_tensor_that_its_samples_name(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    where = samples.tensors["latents"]
    turned = replace(where, shapes=where.shapes[:, [0, 1, 3, 2]])  # another kind of tensor, in the same bytes
    read = Reader(ShardFiles(encoded.store), replace(samples, tensors={**samples.tensors, "masks": turned}))
    tensors = read.read_batch([(0, None), (3, 0)]).tensors
    assert list(tensors) == ["latents", "masks"]
    assert torch.equal(tensors["masks"].flatten(), tensors["latents"].flatten())
    assert tensors["masks"].shape == (2, 16, 2, 12, 8)


def damage(encoded: Encoded, location: Location) -> None:
    """Flip one bit of a stored tensor."""
    shard = encoded.store.local_path(location.shard)
    assert shard is not None
    data = bytearray(shard.read_bytes())
    data[location.offset + 5] ^= 1
    shard.write_bytes(data)


@pytest.mark.parametrize("kind", ["latents", "captions"])
def test_a_flipped_bit_is_noticed_and_the_sample_named(encoded: Encoded, kind: str) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    where = samples.tensors["latents"] if kind == "latents" else samples.tensors["captions"]
    row = 3 if kind == "latents" else int(samples.first_caption[3])
    damage(encoded, where[row])
    reader = Reader(ShardFiles(encoded.store), samples)
    for other in (2, 4):
        reader.read(other, caption=0)
    told = rf"sample clip0003-0: .*encode_{kind}/.*damaged; .*verify CONFIG --deep --invalidate"
    with pytest.raises(DamagedSampleError, match=told):
        reader.read(3, caption=0)
    assert Reader(ShardFiles(encoded.store), samples, verify=False).read(3, caption=0).latents.shape


def test_a_shard_that_went_is_noticed_and_the_sample_named(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    encoded.store.delete(samples.tensors["latents"].shard(0))
    with pytest.raises(DamagedSampleError, match="sample clip0000-0: .*is gone; .*verify CONFIG --invalidate"):
        Reader(ShardFiles(encoded.store), samples).read(0, caption=None)


def test_files_are_read_by_many_threads_whatever_is_closed_meanwhile(
    encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "MAX_OPEN", 1)  # three shards: every read closes another's file
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    reader = Reader(ShardFiles(encoded.store), samples)
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:  # digests are checked: another file's bytes would be noticed
        list(threads.map(lambda turn: reader.read(turn % len(samples), caption=0), range(600)))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_draws_are_those_of_the_row_times_those_of_its_data_set(tmp_path: Path) -> None:
    encoded = build_encoded(tmp_path / "store", datasets=("demo", "other"), row_draws=lambda i: 1 + i % 2)
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train", draws_per_epoch={"other": 2.5})
    assert samples.draws_per_epoch.tolist() == [(1 + i % 2) * (2.5 if i % 2 else 1.0) for i in range(NUM_TRAIN)]
    plain = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    assert plain.draws_per_epoch.tolist() == [1 + i % 2 for i in range(NUM_TRAIN)]


def test_an_empty_split_says_what_to_change(tmp_path: Path) -> None:
    encoded = build_encoded(tmp_path / "store", num_train=3, num_eval=0)
    with pytest.raises(SanaError, match=r"none of 3 samples is in split 'eval'; change bucket\.eval_fraction"):
        load_samples(encoded.store, encoded.latents, encoded.captions, "eval")


def test_a_sample_without_caption_is_named(encoded: Encoded) -> None:
    captions = _without(encoded, encoded.captions, "clip0004")
    with pytest.raises(SanaError, match="1 of 11 train samples have no caption, first clip0004-0"):
        load_samples(encoded.store, encoded.latents, captions, "train")
    with pytest.raises(SanaError, match="has 0 null captions"):
        load_samples(encoded.store, encoded.latents, _without(encoded, encoded.captions, ""), "train")


def _without(encoded: Encoded, artifact: Artifact, name: str) -> Artifact:
    table = read_table(encoded.store, artifact, INDEX)
    rows = [number for number, value in enumerate(table["name"].to_pylist()) if value != name]
    draft = Draft(encoded.store, Recipe("encode_captions", 2, {}, {"without": name}))
    key = draft.add(INDEX, to_parquet(table.take(rows)))
    return replace(artifact, files={INDEX: replace(artifact.files[INDEX], key=key)})
