"""Checkpoints: complete or absent, an older one for a damaged one, few kept, and the export."""

import os
from pathlib import Path
from uuid import uuid4

import pytest
from diffusers import SanaVideoTransformer3DModel

from sana.runtime.launcher import result_path
from sana.runtime.results import TrainResult
from sana.training.checkpoints.checkpoint import checkpoint_steps, index_key
from sana.training.checkpoints.checkpoint_io import load_weights, weights_digest
from sana.workers.train import train
from tests.s3_server import WeedServer
from tests.training_lab import Lab
from tests.training_store import build_encoded

pytestmark = pytest.mark.timeout(240)


def test_an_older_checkpoint_replaces_a_damaged_one(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """The kinds of damage are in test_checkpoint_attacks.py."""
    straight = lab.train("straight", max_steps=6, checkpoint_every=2)
    lab.train("damaged", max_steps=4, checkpoint_every=2)
    file = lab.path(lab.at("damaged", 4).files["optimizer.safetensors"].key)
    os.truncate(file, 100)
    resumed = lab.train("damaged", max_steps=6, checkpoint_every=2)
    assert "checkpoint of step 4 is removed, an older one is used" in caplog.text
    lab.assert_same(straight, resumed)
    lab.assert_same(lab.at("straight", 4), lab.at("damaged", 4))


def test_a_checkpoint_without_index_is_removed(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=6, checkpoint_every=2)
    half = lab.train("half", max_steps=4, checkpoint_every=2)
    lab.store.delete(half.key)
    unfinished = list(half.files.values())
    lab.assert_same(straight, lab.train("half", max_steps=6, checkpoint_every=2))
    assert not any(lab.store.exists(info.key) for info in unfinished)  # removed


def test_checkpoints_on_s3_are_those_on_a_disk(lab: Lab, s3: WeedServer) -> None:
    remote = Lab(build_encoded(f"s3://{s3.bucket}/train-{uuid4().hex}"), lab.folder, lab.model)
    remote.train("remote", max_steps=2)
    remote.train("remote", max_steps=4)
    straight = lab.train("straight", max_steps=4)
    resumed = remote.at("remote", 4)
    assert {name: info.digest for name, info in resumed.files.items()} == {
        name: info.digest for name, info in straight.files.items()
    }
    assert remote.rows(resumed) == lab.rows(straight)
    left = {path for path in lab.folder.rglob("*.safetensors") if ".reference" not in path.name}
    assert not left  # no fetched file is; what exports are compared with is the stage's to remove


def test_the_newest_checkpoints_stay_and_those_in_use(lab: Lab) -> None:
    lab.train("kept", max_steps=8, checkpoint_every=1, max_checkpoints=2, keep_steps=(3,))
    assert checkpoint_steps(lab.store, lab.key("kept")) == [3, 7, 8]
    keys = [key for key, _ in lab.store.list(f"train/{lab.key('kept')}/checkpoints")]
    assert len(keys) == 3 * 5  # nothing is left of the others
    folders = lab.path(f"train/{lab.key('kept')}/checkpoints").iterdir()
    assert sorted(folder.name for folder in folders) == ["step_00000003", "step_00000007", "step_00000008"]


def test_a_shorter_run_keeps_its_checkpoints_beside_those_of_a_longer_one(lab: Lab) -> None:
    longer = lab.train("shorter", max_steps=8, checkpoint_every=2, max_checkpoints=1)
    shorter = lab.train("shorter", max_steps=4, checkpoint_every=2, max_checkpoints=1, keep_steps=(8,))
    assert shorter.step == 4 and checkpoint_steps(lab.store, lab.key("shorter")) == [4, 8]
    lab.assert_same(longer, lab.train("shorter", max_steps=8, checkpoint_every=2, max_checkpoints=1))


@pytest.mark.parametrize("damaged_step", [2, 6])
def test_a_damaged_index_that_is_not_resumed_from_stops_no_run(lab: Lab, damaged_step: int) -> None:
    lab.train("older", max_steps=6, checkpoint_every=2)
    lab.path(index_key(lab.key("older"), damaged_step)).write_text('{"format": 1}')
    lab.train("older", max_steps=4, checkpoint_every=2)
    assert checkpoint_steps(lab.store, lab.key("older")) == [step for step in (2, 4, 6) if step != damaged_step]


def test_the_export_is_the_ema_weights_and_stock_diffusers_loads_it(lab: Lab) -> None:
    job = lab.job("out", max_steps=5)
    train(job)
    result = TrainResult.load(result_path(job.path))
    assert list(result.files) == sorted(result.files)
    assert all(lab.store.size(file.key) == file.num_bytes for file in result.files.values())
    model = SanaVideoTransformer3DModel.from_pretrained(lab.path(result.model) / "transformer")
    ema = load_weights(lab.store, lab.key("out"), 5, which="ema")
    assert weights_digest(model.state_dict()) == weights_digest(ema) == result.weights.ema
    live = load_weights(lab.store, lab.key("out"), 5, which="live")
    assert weights_digest(live) == result.weights.live != result.weights.ema
    assert Path(result.metrics_path).read_bytes() == b"".join(lab.store.read(key) for key in result.metrics)
    assert (result.step, result.num_samples) == (5, 11)
