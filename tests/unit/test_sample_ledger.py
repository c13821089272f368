"""Laws of the ledger of samples: normalised losses of a plain rendering, in any cut of windows, through its tensors."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from sana.config.training.train import TrainConfig
from sana.training.ledger.sample_ledger import DECAY, SIGMA_BINS, SampleLedger
from sana.training.objectives.noise_levels import noise_levels
from sana.workers.reports.training import clip_losses, plot_sigmas, sigma_histogram

NUM_ROWS, BATCH, STEPS = 12, 4, 300
BUCKETS = ("5x64x96", "81x480x832")


def steps() -> list[tuple[np.ndarray, int, np.ndarray, np.ndarray]]:
    """Losses that fall with sigma and with the step; row 3 costs twice, row 7 a half."""
    random = np.random.default_rng(0)
    hard = np.where(np.arange(NUM_ROWS) == 3, 2.0, np.where(np.arange(NUM_ROWS) == 7, 0.5, 1.0))
    found = []
    for step in range(STEPS):
        rows = random.integers(0, NUM_ROWS - 1, BATCH)  # the last row is never drawn
        sigmas = random.uniform(0.01, 0.99, BATCH).astype(np.float32)
        losses = hard[rows] * (3 - 2 * sigmas) * (0.5 + 0.5 * math.exp(-step / 100)) * random.lognormal(0, 0.1, BATCH)
        found.append((rows, step % 2, sigmas, losses.astype(np.float32)))
    return found


def test_normalised_losses_are_those_of_a_plain_rendering() -> None:
    ledger = SampleLedger(NUM_ROWS, 2)
    sums, weights = [0.0] * SIGMA_BINS, [0.0] * SIGMA_BINS
    ratios: dict[int, list[float]] = {row: [] for row in range(NUM_ROWS)}
    counts = np.zeros((2, SIGMA_BINS), int)
    for rows, bucket, sigmas, losses in steps():
        ledger.add(rows, bucket, sigmas, losses)
        bins = [int(sigma * SIGMA_BINS) for sigma in sigmas]
        for level in set(bins):
            mine = [float(loss) for at, loss in zip(bins, losses, strict=True) if at == level]
            sums[level] = sums[level] * DECAY ** len(mine) + sum(mine)
            weights[level] = weights[level] * DECAY ** len(mine) + len(mine)
        for row, level, loss in zip(rows, bins, losses, strict=True):
            ratios[int(row)].append(loss / (sums[level] / weights[level]))
            counts[bucket, level] += 1
    drawn = np.flatnonzero(ledger.draws)
    mean, stderr = ledger.normalised(drawn)
    assert ledger.draws.tolist() == [len(ratios[row]) for row in range(NUM_ROWS)] and len(drawn) == NUM_ROWS - 1
    np.testing.assert_allclose(mean, [np.mean(ratios[row]) for row in drawn], rtol=1e-5)
    expected = [np.std(ratios[row], ddof=1) / math.sqrt(len(ratios[row])) for row in drawn]
    np.testing.assert_allclose(stderr, expected, rtol=1e-4)
    np.testing.assert_array_equal(ledger.sigma_counts, counts)
    assert drawn[mean.argmax()] == 3 and drawn[mean.argmin()] == 7
    assert mean[3] == pytest.approx(2 * np.median(mean), rel=0.15) and mean[7] == pytest.approx(
        0.5 * np.median(mean), rel=0.15
    )


def test_a_ledger_goes_on_from_its_tensors_to_the_bit() -> None:
    straight, first, second = (SampleLedger(NUM_ROWS, 2) for _ in range(3))
    for number, step in enumerate(steps()):
        straight.add(*step)
        (first if number < 100 else second).add(*step)
        if number == 99:
            for name, tensor in second.tensors().items():
                tensor.copy_(first.tensors()[name])
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_losses_that_are_not_finite_or_zero_spoil_nothing() -> None:
    ledger = SampleLedger(4, 1)
    levels = np.full(4, 0.5, np.float32)
    ledger.add(np.arange(4), 0, levels, np.array([1.0, np.nan, np.inf, 3.0], np.float32))
    assert ledger.draws.tolist() == [1, 0, 0, 1] and ledger.sigma_counts.sum() == 4
    mean, stderr = ledger.normalised(np.array([0, 3]))
    assert mean.tolist() == pytest.approx([0.5, 1.5]) and np.isnan(stderr).all()
    ledger.add(np.array([1, 1]), 0, levels[:2] / 8, np.zeros(2, np.float32))  # a mask that covers nothing
    assert ledger.normalised(np.array([1]))[0].tolist() == [1.0]


def test_the_table_has_each_sample_that_was_drawn_by_its_id() -> None:
    ledger = SampleLedger(3, 1)
    ledger.add(np.array([2, 2, 0]), 0, np.array([0.5, 0.5, 0.5], np.float32), np.array([2.0, 2.0, 1.0], np.float32))
    index = pa.table(
        {
            "sample_id": ["c-0", "e-0", "a-0", "b-0"],
            "clip_id": ["c", "e", "a", "b"],
            "split": ["train", "eval", "train", "train"],
        }
    )
    rows = clip_losses(ledger, index).to_pylist()
    assert [(row["sample_id"], row["clip_id"], row["num_draws"]) for row in rows] == [("a-0", "a", 1), ("c-0", "c", 2)]
    assert rows[0]["normalised_loss"] == pytest.approx(0.6) and rows[0]["stderr"] is None
    assert rows[1]["normalised_loss"] == pytest.approx(1.2) and rows[1]["stderr"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "shift"),
    [
        ({"timestep_sampling": {"name": "mode"}}, {0: 3.0, 1: 3.0}),
        ({"shift_by_tokens": {"name": "sqrt", "min_shift": 0.5}}, {0: 0.5, 1: 3.0}),
    ],
)
def test_the_histogram_stands_beside_what_was_asked_for(settings: dict, shift: dict[int, float]) -> None:
    config = TrainConfig(max_steps=1, global_batch_size=1, **settings)
    ledger = SampleLedger(1, 2)
    random = np.random.default_rng(0)
    for bucket, number in ((0, 3000), (1, 9000)):
        draws = torch.from_numpy(random.uniform(1e-6, 1 - 1e-6, number))
        levels = noise_levels(config.timestep_sampling, draws, shift=shift[bucket]).numpy()
        ledger.add(np.zeros(number, int), bucket, levels, np.ones(number, np.float32))
    table = sigma_histogram(ledger, config=config, buckets=BUCKETS, flow_shift=3.0)
    drawn, expected = np.array(table["draws"]), np.array(table["expected_draws"])
    assert drawn.sum() == 12000 and expected.sum() == pytest.approx(12000)
    assert (np.abs(drawn - expected) < 4.5 * np.sqrt(expected + 1)).all()
    other = sigma_histogram(
        ledger, config=TrainConfig(max_steps=1, global_batch_size=1), buckets=BUCKETS, flow_shift=3.0
    )
    assert (np.abs(drawn - np.array(other["expected_draws"])) > 4.5 * np.sqrt(expected + 1)).any()
    asked, counted = (text.get_text() for text in plot_sigmas(table, config=config).axes[0].get_legend().get_texts())
    assert counted == "drawn: 12000 levels" and config.timestep_sampling.name in asked
