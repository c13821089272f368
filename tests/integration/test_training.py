"""The training loop on a tiny model and a synthetic store: the same steps, whatever interrupts it."""

import json
import math
import os
import re
import signal
import time
from pathlib import Path

import pytest

from sana.data.loading.loader import load_samples
from sana.data.shards.shard import DamagedSampleError
from sana.errors import ConfigError, SanaError
from sana.metrics import of_sigmas
from sana.progress import Progress
from sana.runtime.launcher import result_path
from sana.runtime.results import TrainResult
from sana.training.checkpoints.checkpoint import DataPosition, checkpoint_steps, newest_checkpoint
from sana.training.evaluation import eval_sigmas
from sana.workers.train import train
from tests.training_lab import Lab
from tests.training_store import build_encoded, reports_to

pytestmark = pytest.mark.timeout(240)

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_losses.txt"


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_run_that_was_killed_and_continued_is_the_run_that_was_not(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=8, eval_every=4)

    def die(progress: Progress) -> None:
        if progress.done == 6:
            raise Killed

    with pytest.raises(Killed):
        train(reports_to(lab.job("killed", max_steps=8, eval_every=4, log_every=1), die))
    assert checkpoint_steps(lab.store, lab.key("killed")) == [4]
    resumed = lab.train("killed", max_steps=8, eval_every=4)
    lab.assert_same(straight, resumed)
    rows = lab.rows(resumed)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 9))
    assert [row["step"] for row in rows if "eval/loss_ema" in row] == [0, 4, 8]
    assert resumed.cursor == DataPosition(8, 2, 2)
    for row in rows:
        for weights in ("live", "ema"):  # by noise level: as many as are evaluated, and their mean is the eval loss
            levels = of_sigmas(row, weights)
            assert bool(levels) == ("eval/loss_ema" in row)
            if levels:
                assert tuple(levels) == eval_sigmas(len(levels)) and len(levels) > 1
                assert math.fsum(levels.values()) / len(levels) == pytest.approx(row[f"eval/loss_{weights}"])


def test_raising_max_steps_resumes_and_a_finished_run_only_exports(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=7, checkpoint_every=100)
    lab.train("raised", max_steps=3, checkpoint_every=100)
    raised = lab.train("raised", max_steps=7, checkpoint_every=100)
    lab.assert_same(straight, raised)
    job = lab.job("raised", max_steps=7)
    train(job)
    assert TrainResult.load(result_path(job.path)).checkpoint == raised.key
    assert lab.at("raised", 7).attempt == raised.attempt
    lines = [json.loads(line) for line in job.progress_path.read_text().splitlines()]
    phases = ["loading the model", "preparing the first batch", "loading N KiB, N MiB/s", "", "", "exporting the model",
              "what exports are compared with"]  # fmt: skip
    assert [re.sub(r"[\d.]+", "N", line["phase"]) for line in lines] == phases
    assert [(line["done"], line["before"]) for line in lines] == [(0, 0)] * 3 + [(7, 7)] * 4


def test_sigterm_saves_the_last_step_and_the_next_run_resumes(lab: Lab) -> None:
    job = lab.job("stopped", max_steps=100_000, checkpoint_every=100_000, log_every=1)
    [process] = lab.start(job)
    deadline = time.monotonic() + 120
    while not (job.progress_path.exists() and '"done": 3, ' in job.progress_path.read_text()):
        assert process.exitcode is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    stopped = newest_checkpoint(lab.store, lab.key("stopped"), at_most=100_000)
    assert stopped is not None and stopped.step >= 3
    assert not result_path(job.path).exists()
    end = stopped.step + 2
    lab.assert_same(lab.train("stopped", max_steps=end), lab.train("straight", max_steps=end, max_checkpoints=100))


def test_a_stop_while_evaluating_saves_and_the_next_run_evaluates(lab: Lab) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 3 and progress.metrics:
            os.kill(os.getpid(), signal.SIGTERM)  # seen after the first round of the eval at step 3

    settings = {"max_steps": 6, "eval_every": 3, "checkpoint_every": 100, "log_every": 100}
    with pytest.raises(SystemExit) as left:
        train(reports_to(lab.job("stopped", **settings), stop))
    assert left.value.code == 143
    assert checkpoint_steps(lab.store, lab.key("stopped")) == [3]
    lab.assert_same(lab.train("stopped", **settings), lab.train("straight", **settings))


def test_micro_batches_and_checkpointing_change_nothing(lab: Lab) -> None:
    whole = lab.train("whole", micro_batch_size=4)
    single = lab.train("single", micro_batch_size=1, prefetch_batches=5)
    assert lab.losses(single) == pytest.approx(lab.losses(whole), rel=1e-5)
    saving = lab.train("saving", micro_batch_size=4, activation_memory="recompute_all")
    lab.assert_same(whole, saving)


def test_draws_make_an_epoch_longer_and_survive_a_restart(lab: Lab) -> None:
    once = lab.train("once", max_steps=4)
    straight = lab.train("straight", max_steps=4, draws_per_epoch={"demo": 2.5})
    assert once.cursor == DataPosition(4, 1, 1)  # 7 and 4 clips in batches of 4: 3 batches
    assert straight.cursor == DataPosition(4, 0, 4)  # 18 and 10 places: 8 batches
    lab.train("stopped", max_steps=3, draws_per_epoch={"demo": 2.5})
    lab.assert_same(straight, lab.train("stopped", max_steps=4, draws_per_epoch={"demo": 2.5}))
    assert lab.losses(once) != lab.losses(straight)


@pytest.mark.usefixtures("own_sigterm")
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path: Path, tiny_model: Path) -> None:
    # fp16 stores infinity for latents this large, and the loss follows
    lab = Lab(build_encoded(tmp_path / "store", scale=1e6), tmp_path, tiny_model)
    with pytest.raises(
        SanaError, match=r"step 1: loss (nan|inf), .*clip00\d\d-0.*learning_rate.*: sana inspect CONFIG clip00\d\d-0"
    ):
        train(lab.job("bad", checkpoint_every=2, log_every=100))
    assert checkpoint_steps(lab.store, lab.key("bad")) == []


@pytest.mark.usefixtures("own_sigterm")
def test_damaged_samples_end_training_only_if_checksums_are_verified(tmp_path: Path, tiny_model: Path) -> None:
    damaged = Lab(build_encoded(tmp_path / "root"), tmp_path / "lab", tiny_model)
    samples = load_samples(damaged.store, damaged.encoded.latents, damaged.encoded.captions, "train")
    latents = samples.tensors["latents"]
    for row in range(len(samples)):
        path = damaged.path(latents[row].shard)
        data = bytearray(path.read_bytes())
        data[latents[row].offset] ^= 1
        path.write_bytes(data)
    assert damaged.train("unverified", max_steps=1, verify_checksums=False).step == 1
    with pytest.raises(DamagedSampleError, match="damaged"):
        damaged.train("verified", max_steps=1)


def test_a_batch_that_does_not_divide_is_an_error() -> None:
    from sana.training.batch import RankPartition

    with pytest.raises(ConfigError, match="4 is not a multiple of 3 ranks x micro_batch_size 1; use 6"):
        RankPartition(4, 1, rank=0, num_ranks=3)


def test_tiny_training_repeats_the_recorded_losses(lab: Lab) -> None:
    losses = lab.losses(lab.train("golden", max_steps=10))
    recorded = [float(line.split()[1]) for line in GOLDEN.read_text().splitlines()]
    assert losses == pytest.approx(recorded, rel=1e-4), "meant to change? raise train's VERSION, record again, say why"
