"""Laws of the shard cache: the right bytes, within the budget, with fewer requests to S3, for many processes."""

import hashlib
import json
import os
import time
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from sana.artifact import Artifact
from sana.data.loading.loader import Reader, load_samples
from sana.data.shards.shard import DamagedSampleError, read_tensor
from sana.data.shards.shard_cache import ShardFiles
from tests.counted_store import Counted, used
from tests.forked import start
from tests.s3_server import WeedServer
from tests.training_store import Encoded, build_encoded

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def encoded(s3: WeedServer) -> Encoded:
    return build_encoded(f"s3://{s3.bucket}/cache-{uuid4().hex}", num_train=24)


def reader_of(encoded: Encoded, folder: Path, budget: int, *, keep_s: float = 3600.0) -> tuple[Reader, Counted]:
    store = Counted(encoded.store.root)
    samples = load_samples(store, encoded.latents, encoded.captions, "train")
    return Reader(ShardFiles(store, cache_folder=folder, cache_bytes=budget, keep_s=keep_s), samples), store


def read_all(encoded: Encoded, reader: Reader) -> None:
    for row in range(len(reader.samples)):
        sample = reader.read(row, caption=0)
        assert torch.equal(sample.latents, read_tensor(encoded.store, reader.samples.tensors["latents"][row]).float())


def test_shards_are_fetched_once_and_then_nothing_is_requested(encoded: Encoded, tmp_path: Path) -> None:
    reader, store = reader_of(encoded, tmp_path / "c", 10**9)
    read_all(encoded, reader)
    assert (store.fetched, store.ranges) == (3, 1)  # the null caption is read once, at the start
    again, store = reader_of(encoded, tmp_path / "c", 10**9)
    read_all(encoded, again)
    assert (store.fetched, store.ranges) == (0, 1)


def test_without_a_cache_each_tensor_is_one_request(encoded: Encoded, tmp_path: Path) -> None:
    reader, store = reader_of(encoded, tmp_path / "c", 0)
    read_all(encoded, reader)
    assert (store.fetched, store.ranges) == (0, 1 + 2 * 24)
    assert not (tmp_path / "c").exists()


def test_a_shard_in_use_is_not_evicted_for_another(encoded: Encoded, tmp_path: Path) -> None:
    """Evicting the least recently used would fetch every shard again and again when they do not all fit."""
    sizes = sorted(size for key, size in encoded.store.list("encode_latents/pool") if key.endswith(".safetensors"))
    budget = sizes[-1] + 10
    reader, store = reader_of(encoded, tmp_path / "c", budget)
    for _ in range(3):
        read_all(encoded, reader)
        assert used(tmp_path / "c") <= budget
    assert store.fetched <= 2 < store.ranges < 3 * 2 * 24


def test_shards_used_long_ago_are_evicted(encoded: Encoded, tmp_path: Path) -> None:
    reader, store = reader_of(encoded, tmp_path / "c", 10**9)
    read_all(encoded, reader)
    for path in (tmp_path / "c").glob("*.safetensors"):
        os.utime(path, (time.time() - 7200,) * 2)
    other = build_encoded(f"{encoded.store.root}-other-{uuid4().hex}", num_train=24)
    budget = sum(size for key, size in other.store.list("") if key.endswith(".safetensors"))
    newer, store = reader_of(other, tmp_path / "c", budget)
    read_all(other, newer)
    assert store.fetched == 3
    assert used(tmp_path / "c") <= budget


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_copy_is_dropped_a_damaged_shard_is_an_error(encoded: Encoded, tmp_path: Path, damage: str) -> None:
    reader, store = reader_of(encoded, tmp_path / "c", 10**9)
    read_all(encoded, reader)
    for path in (tmp_path / "c").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data if damage == "flip" else data[:200])
    read_all(encoded, reader)
    where = reader.samples.tensors["latents"]
    where.digests[5] ^= 1  # as if the shard itself were damaged
    with pytest.raises(DamagedSampleError, match=r"sample clip0005-0: s3://.*the shard is damaged"):
        reader.read(5, caption=None)


def read_twice(root: str, latents: Artifact, captions: Artifact, folder: Path, budget: int, out: Path) -> None:
    """Read every sample twice through a cache that others use too; a line of JSON for each round."""
    store = Counted(root)
    files = ShardFiles(store, cache_folder=folder, cache_bytes=budget, keep_s=0.0)
    reader = Reader(files, load_samples(store, latents, captions, "train"))
    most = 0
    for _ in range(2):
        digest = hashlib.blake2b(digest_size=8)
        for row in range(len(reader.samples)):
            sample = reader.read(row, caption=0)
            digest.update(sample.latents.numpy().tobytes())
            most = max(most, used(folder))
        with out.open("a") as file:
            print(json.dumps([digest.hexdigest(), most, store.ranges, store.fetched]), file=file)


def test_two_processes_and_a_budget_smaller_than_the_data(encoded: Encoded, tmp_path: Path) -> None:
    """No shard is protected from eviction here, so that each process evicts what the other reads."""
    reader, _ = reader_of(encoded, tmp_path / "none", 0)
    expected = hashlib.blake2b(digest_size=8)
    for row in range(len(reader.samples)):
        expected.update(reader.read(row, caption=0).latents.numpy().tobytes())
    sizes = [size for key, size in encoded.store.list("") if key.endswith(".safetensors")]
    budget = sum(sizes) - 10
    outputs = [tmp_path / "one", tmp_path / "two"]
    arguments = (encoded.store.root, encoded.latents, encoded.captions, tmp_path / "c", budget)
    processes = [start(read_twice, *arguments, output) for output in outputs]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for output in outputs:
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(lines) == 2
        for digest, most, *_ in lines:
            assert digest == expected.hexdigest()
            assert most <= budget
        ranges, fetched = lines[-1][2:]
        assert ranges + fetched < 2 * 2 * 24, "fewer requests than samples and captions"
