"""A second optimizer and a second objective, through the stage: each is one module and one line of a registry."""

import shutil
import signal
from pathlib import Path

from safetensors.torch import load_file

from sana.metrics import parse_rows
from sana.training.checkpoints.checkpoint import read_checkpoint, read_metrics
from sana.workers.train import train
from tests import forked
from tests.pipeline_runs import Outcome, Place, inline_workers, run_stages
from tests.training_lab import Lab

MEMBERS = ("train.optimizer.name=adafactor", "train.objective={name: huber, delta: 0.5}", "train.max_steps=4")


def trained_on(place: Place) -> Outcome:
    with inline_workers():
        return run_stages(place.context(*MEMBERS), last="train")


def test_factored_state_and_a_metric_of_its_own_survive_a_kill(place: Place, tmp_path: Path) -> None:
    killed = Place(tmp_path / "killed", place.model, str(tmp_path / "killed/root"))
    shutil.copytree(place.root, killed.root)
    shutil.copytree(place.clips, killed.clips, copy_function=shutil.copy2)
    process = forked.start(forked.train_and_die, killed, 2, *MEMBERS)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole, resumed = trained_on(place), trained_on(killed)
    assert whole.ran == resumed.ran == ["train"]
    assert whole["train"].content == resumed["train"].content

    store, facts = place.context().store, whole["train"].facts
    checkpoints = [read_checkpoint(one.context().store, facts["trajectory"], 4) for one in (place, killed)]
    digests = [{name: file.digest for name, file in checkpoint.files.items()} for checkpoint in checkpoints]
    assert digests[0] == digests[1]
    path = store.local_path(checkpoints[0].files["optimizer.safetensors"].key)
    assert path is not None
    state = load_file(path)
    name = "transformer_blocks.0.attn1.to_q.weight"
    weight = load_file(path.with_name("weights.safetensors"))[name]
    assert state[f"{name}.row_var"].shape == (weight.shape[0], 1)
    assert state[f"{name}.col_var"].shape == (1, weight.shape[1])
    assert {key.rpartition(".")[2] for key in state} == {"row_var", "col_var", "variance"}

    rows = parse_rows(read_metrics(store, checkpoints[0]))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(0 < row["train/huber_linear_fraction"] < 1 for row in rows)


def test_a_huber_loss_of_large_delta_is_the_plain_one(lab: Lab) -> None:
    knobs = {"max_steps": 2, "checkpoint_every": 2}
    plain = lab.train("plain", **knobs)
    huber = lab.job("huber", **knobs, objective={"name": "huber", "delta": 1e3})
    train(huber)
    found = lab.at("huber", 2)
    assert {name: info.digest for name, info in found.files.items()} == {
        name: info.digest for name, info in plain.files.items()
    }
    assert lab.losses(found) == lab.losses(plain)
    assert {row["train/huber_linear_fraction"] for row in lab.rows(found)} == {0.0}
