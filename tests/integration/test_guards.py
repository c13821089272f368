"""Guards and gauges of the loop: skipped steps, too many of them, the loss-spike alarm, what a window measures."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sana import metrics as m
from sana.config.pipeline import Config
from sana.errors import SanaError
from sana.runtime.job import read_job
from sana.runtime.specs import CheckpointName, TrainSpec
from sana.training.batch import MicroBatch
from sana.training.checkpoints.checkpoint import checkpoint_steps, read_metrics
from sana.training.checkpoints.checkpoint_io import load
from sana.training.objectives.objective import Losses
from sana.training.objectives.velocity_objective import VelocityObjective
from sana.training.parallel.parallel import Parallel
from sana.workers.evaluate import evaluate
from sana.workers.train import build_trainer, train
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import evaluate_job, train_config

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("own_sigterm")]

METRICS_PAGE = Path(__file__).parents[2] / "docs/training-metrics.md"
SKIPPED, LOSS = "train/skipped_steps", "train/loss"


class Disturbed:
    """Multiplies the loss of one sample, the last of the global batch, at chosen steps."""

    def __init__(self, patch: pytest.MonkeyPatch, factors: dict[int, float]) -> None:
        self.factors = factors
        draw, loss = VelocityObjective.draw, VelocityObjective.loss
        marks = self.factors

        def drawn(objective: VelocityObjective, slots: Any, tensors: Any) -> dict[str, Tensor]:
            factor = [marks.get(slot.step + 1, 1.0) if slot.position == 3 else 1.0 for slot in slots]
            return {**draw(objective, slots, tensors), "factor": torch.tensor(factor)}

        def disturbed(objective: VelocityObjective, model: nn.Module, batch: MicroBatch) -> Losses:
            losses = loss(objective, model, batch)
            return losses._replace(per_sample=losses.per_sample * batch.tensors["factor"])

        patch.setattr(VelocityObjective, "draw", drawn)
        patch.setattr(VelocityObjective, "loss", disturbed)


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Disturbed:
    return Disturbed(monkeypatch, {})


def train_disturbed(job_path: Path) -> None:
    """Be a rank, on the second of which the sample of step 3 is not a number."""
    job = read_job(job_path, TrainSpec)
    with pytest.MonkeyPatch.context() as patch:
        Disturbed(patch, {3: float("nan")})
        trainer = build_trainer(job, Parallel.open(job.config.train))
        assert trainer.run()


def state_of(lab: Lab, trajectory: str, step: int) -> dict[str, Tensor]:
    found = lab.at(trajectory, step)
    parts = {part: load(lab.store, found, part) for part in ("weights", "ema", "optimizer")}
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing_but_the_count(
    lab: Lab, disturbed: Disturbed, optimizer: str, value: float
) -> None:
    settings = {"max_steps": 3, "checkpoint_every": 1, "max_skipped_steps": 2, "optimizer": {"name": optimizer}}
    name = f"{optimizer}-{value}"
    disturbed.factors[3] = value
    lab.train(name, **settings)
    before, after = state_of(lab, name, 2), state_of(lab, name, 3)
    counted = "optimizer/skipped_steps"
    assert (before.pop(counted).item(), after.pop(counted).item()) == (0, 1)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    rows = lab.rows(lab.at(name, 3))
    assert [row[SKIPPED] for row in rows] == [0, 0, 1]
    assert LOSS in rows[1] and LOSS not in rows[2] and "train/grad_norm" not in rows[2]


def test_without_a_bad_step_the_guard_changes_no_bit(lab: Lab, disturbed: Disturbed) -> None:
    lab.train("off", max_steps=4)
    lab.train("on", max_steps=4, max_skipped_steps=3)
    off, on = state_of(lab, "off", 4), state_of(lab, "on", 4)
    assert set(on) - set(off) == {"optimizer/skipped_steps"}
    assert all(torch.equal(off[name], on[name]) for name in off)


@pytest.mark.parametrize("ema_device", ["auto", "cpu"])
def test_a_resumed_run_skips_and_counts_alike(lab: Lab, disturbed: Disturbed, ema_device: str) -> None:
    """Bias corrections and the EMA decay count the steps that were taken, in both."""
    disturbed.factors |= {2: float("nan"), 5: float("inf")}
    settings = {"checkpoint_every": 100, "max_skipped_steps": 2, "ema_device": ema_device}
    straight = lab.train(f"straight-{ema_device}", max_steps=7, **settings)
    lab.train(f"stopped-{ema_device}", max_steps=3, **settings)
    lab.assert_same(straight, lab.train(f"stopped-{ema_device}", max_steps=7, **settings))
    assert [row[SKIPPED] for row in lab.rows(straight)] == [0, 1, 1, 1, 2, 2, 2]


def test_a_gradient_that_is_not_finite_is_in_no_checkpoint_though_its_step_was_taken_in_the_backward_pass(
    lab: Lab, disturbed: Disturbed
) -> None:
    """Training goes on from the last checkpoint before it, with the bytes of a run that steps after the pass."""
    settings = {"micro_batch_size": 4, "gradient_clipping": "none", "checkpoint_every": 2}
    straight = lab.train("straight", max_steps=5, **settings)
    settings["fused_backward"] = True
    disturbed.factors[4] = float("nan")
    with pytest.raises(SanaError, match=r"step 4: loss nan, .*grad norm nan.*Samples: clip.*; no checkpoint has this"):
        lab.train("broken", max_steps=5, log_every=5, **settings)
    assert checkpoint_steps(lab.store, lab.key("broken")) == [2]
    disturbed.factors.clear()
    lab.assert_same(straight, lab.train("broken", max_steps=5, **settings))


def test_one_more_than_may_be_skipped_stops_the_run(
    lab: Lab, disturbed: Disturbed, caplog: pytest.LogCaptureFixture
) -> None:
    disturbed.factors |= {2: float("nan"), 4: float("nan")}
    job = lab.job("many", max_steps=8, max_skipped_steps=1, log_every=3, checkpoint_every=3)
    with pytest.raises(
        SanaError,
        match=r"2 steps .* train.max_skipped_steps is 1: step 2 \(clip\S+.*\); step 4 \(clip.*inspect CONFIG clip",
    ):
        train(job)
    assert checkpoint_steps(lab.store, lab.key("many")) == [3]
    assert re.search(r"step 2: loss nan, sigma mean [\d.]+, grad norm nan; it is", caplog.text)
    assert "skipped, 1 of at most 1 so far" in caplog.text
    # after a restart the earlier one is still counted
    with pytest.raises(SanaError, match=r"2 steps .*: step 4 \(clip.*; and 1 before"):
        train(lab.job("many", max_steps=8, max_skipped_steps=1, log_every=3, checkpoint_every=3))


def test_the_step_that_is_not_finite_is_the_step_that_is_reported(lab: Lab, disturbed: Disturbed) -> None:
    disturbed.factors[4] = float("nan")
    job = lab.job("told", max_steps=8, log_every=6, checkpoint_every=100)
    with pytest.raises(SanaError, match="step 4: loss nan"):
        train(job)
    last = json.loads(job.progress_path.read_text().splitlines()[-1])
    assert (last["done"], last["total"]) == (4, 8)


def test_a_loss_spike_is_told_and_changes_nothing(
    lab: Lab, disturbed: Disturbed, caplog: pytest.LogCaptureFixture
) -> None:
    disturbed.factors[23] = 1e4
    settings = {"max_steps": 24, "checkpoint_every": 100, "log_every": 4}
    off = lab.train("off", **settings, loss_spike_threshold=0.0)
    assert "far above" not in caplog.text
    job = lab.job("on", **settings, loss_spike_threshold=50.0)
    with caplog.at_level(logging.WARNING):
        train(job)
    on = lab.at("on", 24)
    assert re.search(
        r"loss \S+ at step 23 is far above its level of \S+ \(\d+ robust std\)\. Samples: clip", caplog.text
    )
    assert "at step 23 is far above its level" in job.progress_path.read_text()
    assert [row["step"] for row in lab.rows(on) if "train/loss_spike" in row] == [23]
    assert lab.losses(on) == lab.losses(off)
    assert {name: info.digest for name, info in on.files.items()} == {name: i.digest for name, i in off.files.items()}
    # a restart knows the level
    lab.train("cut", **{**settings, "max_steps": 21}, loss_spike_threshold=50.0)
    lab.assert_same(on, lab.train("cut", **settings, loss_spike_threshold=50.0))


def test_the_guard_is_part_of_the_trajectory(lab: Lab) -> None:
    def settings(**train: Any) -> dict[str, object]:
        config: Config = lab.job("x", **train).config
        return config.train.trajectory_settings()

    assert "max_skipped_steps" not in settings()
    assert settings(max_skipped_steps=2)["max_skipped_steps"] == 2
    assert settings(loss_spike_threshold=0.0) == settings()


@pytest.mark.slow(group="sharded")
@pytest.mark.parametrize(
    ("sharding", "optimizer"), [("none", "adamw"), ("full", "adamw"), ("full", "adafactor"), ("full", "muon")]
)
def test_two_ranks_skip_as_one_does(
    lab: Lab, pair: RankPair, disturbed: Disturbed, sharding: str, optimizer: str
) -> None:
    """One rank alone has the bad sample; none takes the step, be their states whole or sharded."""
    settings = {"max_skipped_steps": 1, "checkpoint_every": 1, "micro_batch_size": 1, "max_checkpoints": 9}
    settings |= {"optimizer": {"name": optimizer}}
    two = f"two-{sharding}-{optimizer}"
    pair.run(train_disturbed, lab.job(two, max_steps=5, **settings, num_processes=2, sharding=sharding).path)
    before, after = state_of(lab, two, 2), state_of(lab, two, 3)
    counted = "optimizer/skipped_steps"
    assert (before.pop(counted).item(), after.pop(counted).item()) == (0, 1)
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    disturbed.factors[3] = float("nan")
    runs = (lab.train(f"one for {two}", max_steps=5, **settings), lab.at(two, 5))
    one, both = (lab.rows(found) for found in runs)
    assert [row[SKIPPED] for row in both] == [row[SKIPPED] for row in one] == [0, 0, 1, 1, 1]
    for name in (LOSS, "train/grad_norm"):
        values = [[row[name] for row in rows if name in row] for rows in (one, both)]
        assert len(values[0]) == 4 and values[1] == pytest.approx(values[0], rel=1e-5)


def test_a_run_has_its_gauges_at_the_end_of_each_log_window(lab: Lab) -> None:
    settings = {"eval_every": 7, "max_skipped_steps": 1}
    saved = lab.train("gauged", max_steps=7, log_every=3, checkpoint_every=100, **settings)
    rows = m.parse_rows(read_metrics(lab.store, saved))
    table = [line for line in METRICS_PAGE.read_text().splitlines() if line.startswith("|")]
    documented = {name for line in table for name in re.findall(r"`(\w+/\w+)`", line.split("|")[1])}
    logged = {name for row in rows for name in row if not name.startswith(m.OF_ONE_SIGMA)} - {"step"}
    assert len(logged) > 20 and logged <= documented, "what a run logs is in the docs"
    of_window = {m.SAMPLES_PER_S, m.TOKENS_PER_S, m.TFLOPS, m.MFU, m.HOST_PEAK_GIB}
    assert [row["step"] for row in rows if of_window <= row.keys()] == [3, 6, 7]
    assert [row["step"] for row in rows if "train/grad_norm_other" in row] == [3, 6]
    for row in rows:
        if m.SAMPLES_PER_S in row:
            assert row[m.SAMPLES_PER_S] * row[m.STEP_S] == pytest.approx(4)
            assert 0 < row[m.MFU] < 1.5
        if "train/grad_norm_other" in row:
            groups = [value for name, value in row.items() if name.startswith("train/grad_norm_")]
            assert sum(norm**2 for norm in groups) == pytest.approx(row["train/grad_norm"] ** 2, rel=1e-4)


def test_an_eval_loss_that_is_not_finite_is_an_error_that_names_weights_sample_and_level(
    lab: Lab, tmp_path: Path
) -> None:
    """Of a broken base model, in the loop and in the stage."""
    broken = shutil.copytree(lab.model, tmp_path / "broken")
    weights = load_file(broken / "transformer" / "diffusion_pytorch_model.safetensors")
    weights["proj_out.bias"][0] = float("nan")
    save_file(weights, broken / "transformer" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    said = r"the eval loss of the {} weights is nan for sample clip\d+-0 at sigma 0\.125.*16 of 16 losses"
    of_broken = Lab(lab.encoded, tmp_path / "runs", broken)
    job = of_broken.job("broken", max_steps=2, eval_every=1)
    with pytest.raises(SanaError, match=f"after step 0, {said.format('live')}"):
        train(job)
    lab.train("sound", max_steps=1)
    config = train_config(lab.encoded, tmp_path / "stage", broken)
    checkpoint = CheckpointName(lab.key("sound"), 1)
    with pytest.raises(SanaError, match=said.format("initial")):
        evaluate(evaluate_job(lab.encoded, config, broken, checkpoint, tmp_path / "out"))


def test_a_step_that_does_not_fit_names_what_needs_less(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: Any) -> Losses:
        return Losses(torch.empty(2**56), {})

    monkeypatch.setattr(VelocityObjective, "loss", loss)
    with pytest.raises(SanaError, match="not enough memory .* less is needed with train.resources.micro_batch_size=1"):
        lab.train("too-large", max_steps=2)
