"""Laws of the eval loss: its formula, and what it does not depend on."""

import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sana.bucket import Bucket
from sana.config.evaluate import EvaluateConfig
from sana.config.training.conditions import ConditionConfig
from sana.config.training.train import TrainConfig
from sana.data.eval_table import EvalTable, paired_difference
from sana.data.loading.loader import Reader, Samples, load_samples
from sana.data.shards.shard_cache import ShardFiles
from sana.model.random import philox_normal
from sana.model.transformer import load_transformer
from sana.training.evaluation import (
    eval_list_digest,
    eval_rows,
    eval_sigmas,
    evaluate_model,
    levels_per_forward,
)
from sana.training.objectives.clean_masks import draw_clean
from sana.training.objectives.registry import build_objective
from tests.training_store import Encoded, build_encoded

pytestmark = pytest.mark.timeout(60)


class OneRank:
    """The part of Parallel that evaluation uses, for rank `rank` of `num_ranks`; a sum is this rank's own tensor."""

    device = torch.device("cpu")
    is_sharded = False

    def __init__(self, rank: int = 0, num_ranks: int = 1) -> None:
        self.rank, self.num_ranks = rank, num_ranks

    def autocast(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class Scale(nn.Module):
    """Predicts a multiple of its input, and counts forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.batches: list[int] = []

    def forward(self, noisy: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(noisy))
        return (self.factor * noisy,)


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    return build_encoded(tmp_path / "store", num_train=1, num_eval=5)


def read(encoded: Encoded) -> tuple[Reader, Samples]:
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "eval")
    return Reader(ShardFiles(encoded.store), samples), samples


def evaluate(
    encoded: Encoded,
    model: nn.Module,
    *,
    num_sigmas: int = 3,
    max_samples: int = 100,
    rank: int = 0,
    num_ranks: int = 1,
    on_round: Callable[[int, int], bool] = lambda *_: True,
    condition: ConditionConfig | None = None,
) -> EvalTable | None:
    config = EvaluateConfig(num_sigmas=num_sigmas, max_samples=max_samples)
    parallel: Any = OneRank(rank, num_ranks)
    objective = build_objective(TrainConfig(max_steps=1, global_batch_size=1), flow_shift=3.0)
    reader = read(encoded)[0]
    return evaluate_model(
        parallel, model, objective, reader, config, text_padding="batch", on_round=on_round, condition=condition
    )


def run(encoded: Encoded, **settings: Any) -> EvalTable:
    table = evaluate(encoded, Scale().train(), **settings)
    assert table is not None
    return table


def test_each_loss_is_the_formula(encoded: Encoded) -> None:
    table = run(encoded)
    reader, samples = read(encoded)
    for row, name in enumerate(table.sample_ids):
        x0 = reader.read(row, caption=0).latents
        for level, sigma in enumerate([1 / 6, 3 / 6, 5 / 6]):
            noise = philox_normal(x0.shape, key=("eval", name, 3, level))
            error = 0.5 * ((1 - sigma) * x0 + sigma * noise) - (noise - x0)
            assert table.losses[row, level] == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_one_forward_is_one_sample_and_the_mode_is_restored(encoded: Encoded) -> None:
    model = Scale().train()
    evaluate(encoded, model)
    assert model.batches == [3] * 5
    assert model.training


@pytest.mark.parametrize(
    ("bucket", "num_levels", "at_once"),
    [
        ("81x480x832", 8, 1),  # 32,760 tokens a level
        ("81x448x896", 8, 1),
        ("81x624x624", 8, 1),
        ("17x480x832", 8, 4),  # 7,800
        ("17x480x832", 6, 3),  # a divisor, though 4 would fit
        ("17x480x832", 7, 1),
        ("17x96x160", 8, 8),  # the tiny model's clips: all at once
        ("1x480x832", 100, 20),
    ],
)
def test_the_latent_shape_alone_decides_how_many_levels_a_forward_takes(
    bucket: str, num_levels: int, at_once: int
) -> None:
    assert levels_per_forward(num_levels, Bucket.parse(bucket).latent_shape) == at_once


@pytest.mark.parametrize(("at_once", "forwards"), [(1, [1] * 4), (2, [2] * 2), (4, [4])])
def test_losses_level_by_level_are_those_of_all_levels_at_once(
    encoded: Encoded, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, forwards: list[int]
) -> None:
    """The tolerance that docs/evaluation.md states: 1e-5 of each loss in fp32."""
    model = load_transformer(str(tiny_model))
    together = evaluate(encoded, model, num_sigmas=4, max_samples=2)
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr("sana.training.evaluation.TOKENS_PER_FORWARD", at_once * 48)  # latents of 2x8x12: 48 tokens
    apart = evaluate(encoded, model, num_sigmas=4, max_samples=2)
    hook.remove()
    assert sizes == forwards * 2
    assert together is not None and apart is not None
    assert np.abs(apart.losses / together.losses - 1).max() < 1e-5
    assert apart.mean() == pytest.approx(together.mean(), rel=1e-6)


def test_the_next_sample_is_read_while_this_one_is_computed(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stop leaves no thread behind."""
    readers: set[str] = set()
    read = Reader.read

    def noted(self: Reader, row: int, *, caption: int | None) -> Any:
        readers.add(threading.current_thread().name)
        return read(self, row, caption=caption)

    monkeypatch.setattr(Reader, "read", noted)
    assert evaluate(encoded, Scale(), on_round=lambda done, _: done < 2) is None
    assert readers and threading.main_thread().name not in readers
    assert not [thread for thread in threading.enumerate() if thread.name in readers]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_ranks_divide_the_samples_and_sum_to_the_same_bits(encoded: Encoded, num_ranks: int) -> None:
    parts = [run(encoded, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert sum((part.losses != 0).all(axis=1).sum() for part in parts) == 5
    assert np.array_equal(sum(part.losses for part in parts), run(encoded).losses)


def test_every_rank_computes_in_every_round(encoded: Encoded) -> None:
    """Sharded weights need all ranks for a forward: one without a sample left repeats one, and drops the loss."""
    models = [Scale() for _ in range(3)]
    for rank, model in enumerate(models):
        evaluate(encoded, model, rank=rank, num_ranks=3)
    assert [model.batches for model in models] == [[3, 3]] * 3  # five samples


def test_sharded_ranks_take_as_many_forwards_as_the_one_with_most(
    encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small clip takes all levels at once where another rank's takes one by one: weights are gathered together."""
    expected, model = run(encoded), Scale().train()
    monkeypatch.setattr(OneRank, "is_sharded", True)
    monkeypatch.setattr(OneRank, "largest", lambda _, number: number + 2, raising=False)
    found = evaluate(encoded, model)
    assert found is not None and model.batches == [3, 3, 3] * 5
    assert np.array_equal(found.losses, expected.losses)


def test_fewer_samples_are_a_subset_with_equal_losses(encoded: Encoded) -> None:
    full, part = run(encoded), run(encoded, max_samples=3)
    assert len(part.sample_ids) == 3 and list(part.sample_ids) == sorted(part.sample_ids)
    positions = [full.sample_ids.index(name) for name in part.sample_ids]
    assert np.array_equal(full.losses[positions], part.losses)
    assert eval_list_digest(full.sample_ids) != eval_list_digest(part.sample_ids)


def test_more_clips_keep_most_of_the_list(tmp_path: Path) -> None:
    few, many = (read(build_encoded(tmp_path / str(n), num_train=1, num_eval=n))[1] for n in (20, 40))
    chosen = {few.sample_id(row) for row in eval_rows(few, 10)}
    chosen_of_many = {many.sample_id(row) for row in eval_rows(many, 10)}
    both = {few.sample_id(row) for row in eval_rows(few, 20)}
    assert chosen_of_many & both <= chosen | (chosen_of_many - both)  # the hash decides, not the size
    assert (chosen_of_many & both) <= chosen


def test_a_stop_ends_the_evaluation_without_a_result(encoded: Encoded) -> None:
    rounds: list[tuple[int, int]] = []

    def after(done: int, total: int) -> bool:
        rounds.append((done, total))
        return done < 2

    assert evaluate(encoded, Scale(), on_round=after) is None
    assert rounds == [(1, 5), (2, 5)]


def test_sigmas_are_midpoints() -> None:
    assert eval_sigmas(4) == (0.125, 0.375, 0.625, 0.875)


def table_of(names: str, losses: list[list[float]]) -> EvalTable:
    return EvalTable(tuple(names), eval_sigmas(len(losses[0])), np.array(losses))


def test_the_standard_error_is_over_samples() -> None:
    table = table_of("abc", [[1.0, 3.0], [2.0, 4.0], [6.0, 8.0]])
    assert table.mean() == 4.0
    assert table.stderr() == pytest.approx(np.std([2.0, 3.0, 7.0], ddof=1) / math.sqrt(3))
    assert [mean for mean, _ in table.per_sigma()] == [3.0, 5.0]
    assert table_of("a", [[1.0]]).stderr() is None


def test_means_do_not_depend_on_the_order_of_samples() -> None:
    losses = np.random.default_rng(0).lognormal(size=(200, 8)) * 1e3
    table = EvalTable(tuple(map(str, range(200))), eval_sigmas(8), losses)
    reversed_table = dataclasses.replace(table, losses=losses[::-1])
    assert (table.mean(), table.stderr()) == (reversed_table.mean(), reversed_table.stderr())


def test_pairs_are_the_common_samples() -> None:
    a, b = table_of("abc", [[1.0], [2.0], [3.0]]), table_of("bcd", [[4.0], [4.5], [100.0]])
    mean, stderr, num = paired_difference(a, b)
    assert (mean, num) == (-1.75, 2)
    assert stderr == pytest.approx(0.25)
    assert paired_difference(b, a)[0] == 1.75
    with pytest.raises(ValueError, match="0 samples are common"):
        paired_difference(a, table_of("xyz", [[1.0]] * 3))
    with pytest.raises(ValueError, match="one grid"):
        paired_difference(a, table_of("abc", [[1.0, 2.0]] * 3))


CONDITIONS = [
    {"name": "image_to_video", "probability": 1.0},
    {"name": "extend", "probability": 0.1, "side": "suffix", "min_latent_frames": 1},
    {"name": "inpaint", "probability": 0.1, "frames": "run"},
]


@pytest.mark.parametrize("values", CONDITIONS, ids=lambda values: values["name"])
def test_with_a_condition_each_loss_is_the_formula_of_what_is_not_given(encoded: Encoded, values: dict) -> None:
    """Fixed by the sample: the same at every level, and for any number of ranks."""
    config = TrainConfig(max_steps=1, global_batch_size=1, conditions=[values])
    (condition,) = config.conditions
    table = run(encoded, condition=condition)
    reader, samples = read(encoded)
    assert table.sample_ids == tuple(samples.sample_ids())
    for row, name in enumerate(table.sample_ids):
        x0 = reader.read(row, caption=0).latents
        given = draw_clean(condition, tuple(x0.shape[1:]), key=("eval", name, condition.label))
        assert given is not None
        for level, sigma in enumerate([1 / 6, 3 / 6, 5 / 6]):
            noise = philox_normal(x0.shape, key=("eval", name, 3, level))
            seen = torch.where(given, x0, (1 - sigma) * x0 + sigma * noise)
            errors = (0.5 * seen - (noise - x0)).square()[:, ~given[0]]
            assert table.losses[row, level] == pytest.approx(errors.mean().item(), rel=1e-5)
    parts = [run(encoded, condition=condition, rank=rank, num_ranks=2) for rank in range(2)]
    assert np.array_equal(sum(part.losses for part in parts), table.losses)
    again = condition.model_copy(update={"probability": 0.7})
    assert np.array_equal(run(encoded, condition=again).losses, table.losses)
    assert not np.array_equal(run(encoded).losses, table.losses)


def test_samples_that_a_condition_does_not_apply_to_are_left_out(encoded: Encoded) -> None:
    (full,) = TrainConfig(
        max_steps=1,
        global_batch_size=1,
        conditions=[{"name": "inpaint", "probability": 1, "min_size": 1, "max_size": 1, "frames": "run"}],
    ).conditions
    model = Scale().train()
    table = evaluate(encoded, model, condition=full)
    assert table is not None and 0 < len(table.sample_ids) < 5  # in all frames of some, which is text to video
    assert table.losses.shape == (len(table.sample_ids), 3) and (table.losses > 0).all()
