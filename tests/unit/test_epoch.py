"""Laws of an epoch's order: every row as often as its draws, for any number of ranks and after any restart."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.data.loading.epoch import Cursor, epoch_plan
from sana.training.batch import RankPartition

pytestmark = pytest.mark.timeout(60)

PLAN = [[5, 6], [3, 4], [0, 2], [4, 1]]
codes = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.uint16))
weights = st.sampled_from([0.01, 0.3, 0.5, 1.0, 1.25, 2.0, 3.7])


@given(codes=codes, batch_size=st.integers(1, 9), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_holds_every_row_and_few_repeats(codes: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    plan = epoch_plan(codes, seed=seed, epoch=epoch, batch_size=batch_size)
    assert plan.dtype == np.int64
    assert all(len(set(codes[batch])) == 1 for batch in plan)
    seen = np.bincount(plan.ravel(), minlength=len(codes))
    assert seen.min() >= 1
    for code in set(codes.tolist()):
        draws = seen[codes == code]
        assert draws.sum() - len(draws) <= batch_size - 1
        assert draws.max() - draws.min() <= 1  # a row is repeated again only after all others of its bucket
    assert len(plan) == Cursor(codes, seed=seed, batch_size=batch_size).num_batches
    assert np.array_equal(plan, epoch_plan(codes, seed=seed, epoch=epoch, batch_size=batch_size))
    ones = np.ones(len(codes))
    assert np.array_equal(plan, epoch_plan(codes, ones, seed=seed, epoch=epoch, batch_size=batch_size))


@given(codes=codes, data=st.data(), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_rows_are_drawn_as_often_as_their_draws_per_epoch(
    codes: np.ndarray, data: st.DataObject, seed: int, epoch: int
) -> None:
    draws_per_epoch = np.array(data.draw(st.lists(weights, min_size=len(codes), max_size=len(codes))))
    # batches of one are not filled up: the plan is the rows' draws_per_epoch and nothing else
    seen = np.bincount(
        epoch_plan(codes, draws_per_epoch, seed=seed, epoch=epoch, batch_size=1).ravel(), minlength=len(codes)
    )
    assert ((seen == np.floor(draws_per_epoch)) | (seen == np.floor(draws_per_epoch) + 1)).all()
    for code in set(codes.tolist()):
        for value in set(draws_per_epoch[codes == code].tolist()):
            alike = (codes == code) & (draws_per_epoch == value)
            extra = seen[alike].sum() - int(value) * alike.sum()
            expected = round((value - int(value)) * alike.sum())
            assert extra == (max(1, expected) if value < 1 else expected)


@given(
    codes=codes,
    data=st.data(),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 5),
)
def test_draws_fill_whole_batches_of_one_bucket(
    codes: np.ndarray, data: st.DataObject, batch_size: int, epoch: int
) -> None:
    draws_per_epoch = np.array(data.draw(st.lists(weights, min_size=len(codes), max_size=len(codes))))
    cursor = Cursor(codes, draws_per_epoch, seed=0, batch_size=batch_size)
    plan = epoch_plan(codes, draws_per_epoch, seed=0, epoch=epoch, batch_size=batch_size)
    assert len(plan) == cursor.num_batches  # in every epoch
    assert all(len(set(codes[batch])) == 1 for batch in plan)
    once = np.bincount(
        epoch_plan(codes, draws_per_epoch, seed=0, epoch=epoch, batch_size=1).ravel(), minlength=len(codes)
    )
    seen = np.bincount(plan.ravel(), minlength=len(codes))
    assert (seen >= once).all()
    for code in set(codes.tolist()):
        assert (seen - once)[codes == code].sum() <= batch_size - 1
    assert np.array_equal(plan[0], cursor.batch(epoch * cursor.num_batches))


def test_a_fraction_draws_other_rows_each_epoch_and_reaches_all() -> None:
    codes = np.zeros(40, dtype=np.uint16)
    drawn = [set(epoch_plan(codes, 0.25, seed=3, epoch=epoch, batch_size=1).ravel().tolist()) for epoch in range(40)]
    assert all(len(rows) == 10 for rows in drawn)
    assert len({tuple(sorted(rows)) for rows in drawn}) == 40
    assert set.union(*drawn) == set(range(40))


def test_a_second_draw_comes_after_the_first_of_all_rows() -> None:
    """So a small data set with many repeats does not fill a batch with one clip."""
    codes, draws_per_epoch = np.zeros(64, dtype=np.uint16), np.full(64, 3.0)
    plan = epoch_plan(codes, draws_per_epoch, seed=0, epoch=0, batch_size=16)
    assert all(len(set(batch.tolist())) == 16 for batch in plan)


def test_epochs_seeds_and_buckets_are_shuffled_differently() -> None:
    codes = np.repeat(np.array([0, 1], dtype=np.uint16), 40)
    first = epoch_plan(codes, seed=0, epoch=0, batch_size=4)
    assert not np.array_equal(first, epoch_plan(codes, seed=0, epoch=1, batch_size=4))
    assert not np.array_equal(first, epoch_plan(codes, seed=1, epoch=0, batch_size=4))
    of_first, of_second = (first[codes[first[:, 0]] == code] for code in (0, 1))
    assert not np.array_equal(np.sort(of_first.ravel() + 40), of_second.ravel())
    order = codes[first[:, 0]].tolist()
    assert order != sorted(order)  # buckets are mixed


def test_the_plan_never_changes() -> None:
    """Recorded once (numpy 2.4). Another order is another run: raise train's VERSION."""
    plan = epoch_plan(np.array([0, 1, 0, 1, 1, 0, 0], dtype=np.uint16), seed=7, epoch=2, batch_size=2)
    assert plan.tolist() == PLAN
    many = np.random.Generator(np.random.Philox(1)).integers(0, 24, 100_000).astype(np.uint16)
    plan = epoch_plan(many, seed=2**40, epoch=3, batch_size=64)
    assert hashlib.blake2b(plan.tobytes(), digest_size=8).hexdigest() == "4f6227b54a364c2e"
    weighted = epoch_plan(many, np.where(many % 2, 2.5, 0.7), seed=2**40, epoch=3, batch_size=64)
    assert hashlib.blake2b(weighted.tobytes(), digest_size=8).hexdigest() == "3a0934e2c4ea6075"


def test_a_step_alone_determines_its_batch() -> None:
    codes = np.array([0] * 7 + [1] * 5, dtype=np.uint16)
    straight = Cursor(codes, seed=3, batch_size=4)
    batches = [straight.batch(step).tolist() for step in range(3 * straight.num_batches)]
    assert straight.num_batches == 4
    assert straight.at(9) == (2, 1)
    for step in (11, 0, 5, 8):  # resumed anywhere, in any order
        assert Cursor(codes, seed=3, batch_size=4).batch(step).tolist() == batches[step]
        assert straight.batch(step).tolist() == batches[step]


@given(
    codes=codes,
    weight=weights,
    num_ranks=st.integers(1, 5),
    micro=st.integers(1, 3),
    rounds=st.integers(1, 3),
    resume=st.integers(0, 7),
)
def test_ranks_share_each_batch_without_overlap_and_resume_exactly(
    codes: np.ndarray, weight: float, num_ranks: int, micro: int, rounds: int, resume: int
) -> None:
    size, end = num_ranks * micro * rounds, 8
    cursor = Cursor(codes, weight, seed=1, batch_size=size)
    taken: dict[int, list[tuple[int, int]]] = {step: [] for step in range(resume, end)}
    for rank in range(num_ranks):
        partition = RankPartition(size, micro, rank=rank, num_ranks=num_ranks)
        fresh = Cursor(codes, weight, seed=1, batch_size=size)  # each rank and each restart has one of its own
        batches = list(partition.slots(fresh, resume, end))
        assert len(batches) == (end - resume) * rounds and all(len(batch) == micro for batch in batches)
        for slot in (slot for batch in batches for slot in batch):
            taken[slot.step].append((slot.position, slot.row))
    for step, slots in taken.items():
        assert sorted(slots) == list(enumerate(cursor.batch(step).tolist()))


@pytest.mark.parametrize("every", [2, 3, 7])
def test_pictures_take_every_nth_step_and_each_kind_keeps_its_own_order(every: int) -> None:
    codes = np.array([0] * 7 + [1] * 5 + [2] * 6, dtype=np.uint16)
    is_image = np.array([False, True, False])
    settings = {"seed": 3, "batch_size": 2}
    mixed = Cursor(codes, image_every=every, is_image=is_image, **settings)
    batches = [mixed.batch(step).tolist() for step in range(60)]
    assert [bool(is_image[codes[batch[0]]]) for batch in batches] == [(step + 1) % every == 0 for step in range(60)]
    for kind in (False, True):
        (rows,) = np.nonzero(is_image[codes] == kind)
        alone = Cursor(np.where(is_image[codes] == kind, codes, 0)[rows], **settings) if not kind else None
        mine = [batch for step, batch in enumerate(batches) if ((step + 1) % every == 0) == kind]
        epoch = -(-len(rows) // 2) if kind else mixed.num_batches
        assert {row for batch in mine[:epoch] for row in batch} == set(rows.tolist()), "an epoch has each of them"
        if alone is not None:
            assert [rows[alone.batch(step)].tolist() for step in range(len(mine))] == mine, "as without pictures"
    for step in (41, 0, 13):  # resumed anywhere
        assert Cursor(codes, image_every=every, is_image=is_image, **settings).batch(step).tolist() == batches[step]
    assert mixed.epochs(every * mixed.num_batches) == pytest.approx(every - 1)
    with pytest.raises(ValueError, match="no sample is in a bucket of one frame"):
        Cursor(codes[:7], image_every=every, is_image=is_image, **settings)
