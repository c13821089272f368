"""Paired differences of eval losses: against numbers worked out by hand, and the laws that hold for any."""

import math

import numpy as np
import pyarrow as pa
import pytest

from sana.comparison.paired import Paired, pair
from sana.data.eval_table import EvalTable, tables_by_weights
from sana.data.schemas import LOSSES
from sana.errors import SanaError

# By hand. Two noise levels, three samples:
#
#            A at .25  .75  mean | B at .25  .75  mean | A - B at .25  .75  mean
#   clip-a      1.0   2.0   1.5  |    2.0   2.0   2.0  |      -1.0   0.0  -0.5
#   clip-b      3.0   5.0   4.0  |    3.0   6.0   4.5  |       0.0  -1.0  -0.5
#   clip-c      2.0   4.0   3.0  |    1.0   4.0   2.5  |       1.0   0.0   0.5
#   mean                   8.5/3 |               9.0/3 |       0.0  -1/3  -1/6
#
# standard errors over clips (n - 1 = 2), of each clip's mean over the levels:
#   all:  deviations -1/3, -1/3, 2/3: squares 1/9 + 1/9 + 4/9 = 6/9; / 2 / 3 = 1/9;  root 1/3
#   .25:  -1, 0, 1 around 0: 2 / 2 / 3 = 1/3;  root 0.5773502691896258
#   .75:  0, -1, 0 around -1/3: 1/9 + 4/9 + 1/9 = 6/9; / 2 / 3 = 1/9;  root 1/3
SIGMAS = (0.25, 0.75)
A = EvalTable(("clip-a", "clip-b", "clip-c"), SIGMAS, np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 4.0]]))
B = EvalTable(("clip-a", "clip-b", "clip-c"), SIGMAS, np.array([[2.0, 2.0], [3.0, 6.0], [1.0, 4.0]]))
BUCKETS = {"clip-a": "9x32x32", "clip-b": "9x32x32", "clip-c": "17x32x32"}


def test_the_numbers_are_those_worked_out_by_hand() -> None:
    paired = pair(A, B)
    whole = paired.difference()
    assert whole is not None
    assert (whole.loss, whole.reference) == (pytest.approx(8.5 / 3), pytest.approx(3.0))
    assert whole.difference == pytest.approx(-1 / 6) and whole.stderr == pytest.approx(1 / 3)
    assert whole.num_samples == 3 and whole.verdict == "unsure"
    low, high = (level.loss for level in paired.per_sigma())
    assert (low.difference, low.stderr) == (0.0, pytest.approx(math.sqrt(1 / 3)))
    assert (high.difference, high.stderr) == (pytest.approx(-1 / 3), pytest.approx(1 / 3))


def test_groups_by_hand() -> None:
    """9x32x32 has clips a and b: -0.5 and -0.5, so -0.5 +- 0; 17x32x32 has c alone: 0.5, and no standard error."""
    groups = pair(A, B).per_group(BUCKETS)
    assert list(groups) == ["17x32x32", "9x32x32"]
    assert (groups["9x32x32"].difference, groups["9x32x32"].stderr, groups["9x32x32"].num_samples) == (-0.5, 0.0, 2)
    assert groups["9x32x32"].verdict == "better"
    alone = groups["17x32x32"]
    assert (alone.difference, alone.stderr, alone.num_samples, alone.verdict) == (0.5, None, 1, "unsure")


def test_what_is_common_by_hand() -> None:
    """B lacks clip-c and has clip-d; A was measured at one more level: clips a and b at 0.25 and 0.75 are left."""
    wider = EvalTable(A.sample_ids, (0.25, 0.5, 0.75), np.insert(A.losses, 1, 9.0, axis=1))
    other = EvalTable(("clip-a", "clip-b", "clip-d"), SIGMAS, np.array([[2.0, 2.0], [3.0, 6.0], [7.0, 7.0]]))
    paired = pair(wider, other)
    assert paired.sample_ids == ("clip-a", "clip-b") and paired.sigmas == SIGMAS
    whole = paired.difference()
    assert whole is not None and (whole.loss, whole.reference, whole.difference, whole.stderr) == (
        2.75,
        3.25,
        -0.5,
        0.0,
    )
    changed = pair(wider, other, excluded=["clip-b"]).difference()
    assert changed is not None and (changed.difference, changed.stderr) == (-0.5, None)


def random_tables(seed: int) -> tuple[EvalTable, EvalTable]:
    random = np.random.default_rng(seed)
    ids = tuple(f"clip-{number:02d}" for number in range(12))
    return (EvalTable(ids, SIGMAS, random.random((12, 2))), EvalTable(ids, SIGMAS, random.random((12, 2))))


@pytest.mark.parametrize("seed", range(3))
def test_a_against_b_is_minus_b_against_a(seed: int) -> None:
    a, b = random_tables(seed)
    groups = {name: name[-1] for name in a.sample_ids}
    for one, other in [
        (pair(a, b).difference(), pair(b, a).difference()),
        *((x.loss, y.loss) for x, y in zip(pair(a, b).per_sigma(), pair(b, a).per_sigma(), strict=True)),
        *zip(pair(a, b).per_group(groups).values(), pair(b, a).per_group(groups).values(), strict=True),
    ]:
        assert one is not None and other is not None
        assert (one.difference, one.stderr, one.loss, one.reference) == (
            -other.difference,
            other.stderr,
            other.reference,
            other.loss,
        )
        assert one.is_better == other.is_worse and one.is_worse == other.is_better


def test_a_against_itself_is_nothing() -> None:
    a, _ = random_tables(0)
    same = pair(a, a).difference()
    assert same is not None and (same.difference, same.stderr, same.verdict) == (0.0, 0.0, "same")
    assert all(level.loss.difference == 0 and level.loss.stderr == 0 for level in pair(a, a).per_sigma())


def rows_of(table: EvalTable, weights: str) -> list[dict[str, object]]:
    return [
        {"weights": weights, "sample_id": name, "sigma_index": level, "sigma": table.sigmas[level], "loss": loss}
        for name, losses in zip(table.sample_ids, table.losses.tolist(), strict=True)
        for level, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    a, b = random_tables(seed)
    rows = rows_of(a, "ema") + rows_of(b, "live")
    shuffled = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]
    one, other = (
        tables_by_weights(pa.Table.from_pylist(listed, schema=LOSSES), where="a table") for listed in (rows, shuffled)
    )
    assert pair(one["ema"], one["live"]).difference() == pair(other["ema"], other["live"]).difference()
    assert other["ema"].sample_ids == a.sample_ids and np.array_equal(other["ema"].losses, a.losses)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(bad: float) -> None:
    broken = EvalTable(A.sample_ids, SIGMAS, np.array([[1.0, 2.0], [3.0, bad], [2.0, 4.0]]))
    with pytest.raises(SanaError, match=r"clip-b at sigma 0\.75"):
        pair(broken, B)
    with pytest.raises(SanaError, match=r"clip-b at sigma 0\.75"):
        pair(B, broken)
    assert pair(B, broken, excluded=["clip-b"]).difference() is not None  # it is not among what is compared


@pytest.mark.parametrize("change", ["missing", "twice"])
def test_a_damaged_table_is_refused(change: str) -> None:
    rows = rows_of(A, "ema")
    rows = rows[1:] if change == "missing" else [*rows, rows[0]]
    with pytest.raises(SanaError, match=r"clip-a has [02] losses at sigma 0\.25"):
        tables_by_weights(pa.Table.from_pylist(rows, schema=LOSSES), where="a table")


NOTHING_COMMON = {
    "other clips": (EvalTable(("clip-x",), SIGMAS, np.ones((1, 2))), (), "none is the same, so"),
    "all changed": (B, B.sample_ids, "the 3 that both have were changed"),
    "other levels": (EvalTable(B.sample_ids, (0.1, 0.9), B.losses), (), r"at 2 noise levels \(0.25, 0.75\) and"),
}


@pytest.mark.parametrize("name", NOTHING_COMMON)
def test_nothing_common_is_an_error_that_says_why(name: str) -> None:
    other, excluded, said = NOTHING_COMMON[name]
    with pytest.raises(SanaError, match=said):
        pair(A, other, excluded=excluded)


def test_two_standard_errors_are_the_bound() -> None:
    """Differences -3, -1 have mean -2 and standard error 1: exactly two of them; -3.1, -0.9 have 1.1 and are unsure."""

    def table(*values: float) -> EvalTable:
        return EvalTable(("a", "b"), (0.5,), np.array([[value] for value in values]))

    def verdict(paired: Paired) -> str:
        found = paired.difference()
        assert found is not None
        return found.verdict

    assert verdict(pair(table(1.0, 1.0), table(4.0, 2.0))) == "better"
    assert verdict(pair(table(4.0, 2.0), table(1.0, 1.0))) == "worse"
    assert verdict(pair(table(0.9, 1.1), table(4.0, 2.0))) == "unsure"
