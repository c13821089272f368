"""Laws of what training reads: the join, the order of an epoch, one sample, reading ahead."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sana.artifact import Artifact, Draft, Recipe
from sana.data.loader import INDEX, Cursor, Prefetcher, Reader, epoch_plan, load_samples
from sana.data.manifest import read_table, to_parquet
from sana.data.shard import DamagedSampleError
from sana.errors import SanaError
from tests.training_store import BUCKETS, NUM_EVAL, NUM_TRAIN, Encoded, build_encoded

pytestmark = pytest.mark.timeout(60)

PLAN = [[5, 6], [3, 4], [0, 2], [4, 1]]
codes = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.uint16))


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    return build_encoded(tmp_path / "store")


@settings(max_examples=60, deadline=None)
@given(codes=codes, batch_size=st.integers(1, 9), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_holds_every_row_and_few_repeats(codes: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    plan = epoch_plan(codes, seed=seed, epoch=epoch, batch_size=batch_size)
    assert plan.dtype == np.int64
    assert all(len(set(codes[batch])) == 1 for batch in plan)
    seen = np.bincount(plan.ravel(), minlength=len(codes))
    assert seen.min() >= 1
    for code in set(codes.tolist()):
        times = seen[codes == code]
        assert times.sum() - len(times) <= batch_size - 1
        assert times.max() - times.min() <= 1  # a row is repeated again only after all others of its bucket
    assert len(plan) == Cursor(codes, seed=seed, batch_size=batch_size).num_batches
    assert np.array_equal(plan, epoch_plan(codes, seed=seed, epoch=epoch, batch_size=batch_size))


def test_epochs_seeds_and_buckets_are_shuffled_differently() -> None:
    codes = np.repeat(np.array([0, 1], dtype=np.uint16), 40)
    first = epoch_plan(codes, seed=0, epoch=0, batch_size=4)
    assert not np.array_equal(first, epoch_plan(codes, seed=0, epoch=1, batch_size=4))
    assert not np.array_equal(first, epoch_plan(codes, seed=1, epoch=0, batch_size=4))
    of_first, of_second = (first[codes[first[:, 0]] == code] for code in (0, 1))
    assert not np.array_equal(np.sort(of_first.ravel() + 40), of_second.ravel())
    order = codes[first[:, 0]].tolist()
    assert order != sorted(order)  # buckets are mixed


def test_the_plan_has_not_moved() -> None:
    """Recorded once (numpy 2.4). Another order is another run: raise train's VERSION."""
    plan = epoch_plan(np.array([0, 1, 0, 1, 1, 0, 0], dtype=np.uint16), seed=7, epoch=2, batch_size=2)
    assert plan.tolist() == PLAN


def test_a_step_alone_says_which_batch_it_gets() -> None:
    codes = np.array([0] * 7 + [1] * 5, dtype=np.uint16)
    straight = Cursor(codes, seed=3, batch_size=4)
    batches = [straight.batch(step).tolist() for step in range(3 * straight.num_batches)]
    assert straight.num_batches == 4
    assert straight.at(9) == (2, 1)
    for step in (11, 0, 5, 8):  # resumed anywhere, in any order
        assert Cursor(codes, seed=3, batch_size=4).batch(step).tolist() == batches[step]
        assert straight.batch(step).tolist() == batches[step]


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
    reader = Reader(encoded.store, samples)
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


def test_a_flipped_bit_is_noticed(encoded: Encoded) -> None:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    reader = Reader(encoded.store, samples)
    shard = encoded.store.local_path(samples.latents["shard"][0].as_py())
    assert shard is not None
    data = bytearray(shard.read_bytes())
    data[samples.latents["offset"][0].as_py() + 5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedSampleError, match="damaged"):
        reader.read(0, caption=None)


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


def test_reading_ahead_keeps_the_order_and_the_depth() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.01 if item % 2 else 0.0)
        return item * item

    with Prefetcher(work, range(20), depth=3) as results:
        assert next(results) == 0
        time.sleep(0.1)
        assert max(started) <= 3
        assert list(results) == [item * item for item in range(1, 20)]
    assert not _prefetch_threads()


def test_an_error_while_reading_ahead_comes_at_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise DamagedSampleError("shard x is damaged")
        return item

    with Prefetcher(work, range(5), depth=2) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(DamagedSampleError, match="shard x"):
            next(results)
    assert not _prefetch_threads()


def test_leaving_early_ends_the_threads() -> None:
    with pytest.raises(KeyboardInterrupt), Prefetcher(time.sleep, [0.01] * 100, depth=4) as results:
        next(results)
        raise KeyboardInterrupt
    assert not _prefetch_threads()


def _prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
