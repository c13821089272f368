"""Training with rollout, loss weights, offset noise and mixed levels: on one rank and on two, sharded, resumed."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sana.runtime.job import read_job
from sana.runtime.specs import TrainSpec
from sana.training.checkpoints.checkpoint_io import load
from sana.training.ledger.sample_ledger import LEDGER
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded

pytestmark = pytest.mark.timeout(240)

SETTINGS: dict[str, Any] = {
    "rollout": {
        "max_step_offset": 3, "num_inference_steps": 12, "probability_start": 0.3, "probability_end": 0.8,
        "start_step": 1, "ramp_steps": 2,
    },
    "timestep_sampling": {"name": "mix", "uniform_fraction": 0.3},
    "shift_by_tokens": {"name": "sqrt", "min_shift": 2.0},
    "loss_weighting": {"name": "min_snr"}, "noise_offset": {"strength": 0.1, "probability": 0.5},
    "conditions": [{"name": "image_to_video", "probability": 0.5}],
    "max_steps": 4, "global_batch_size": 4, "micro_batch_size": 1, "checkpoint_every": 2, "log_every": 1,
}  # fmt: skip
TOLERANCE = 1e-5  # relative, of losses and gradient norms


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("noise")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


@pytest.fixture(scope="module")
def straight(lab: Lab) -> list[dict[str, float]]:
    return lab.rows(lab.train("straight", **SETTINGS))


def _train(job_path: Path) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    train(read_job(job_path, TrainSpec))


def worst(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Return the largest relative difference of all that was measured; the same must have been."""
    pairs = []
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        pairs += [(left[name], right[name]) for name in left if name != "step"]
    return max(abs(one - other) / max(abs(one), 1e-3) for one, other in pairs)


def test_the_ramp_is_seen_in_the_metrics(straight: list[dict[str, float]]) -> None:
    rows = [row for row in straight if "train/loss" in row]
    fractions = [row["train/rollout_fraction"] for row in rows]
    assert fractions[0] == 0 and max(fractions[1:]) > 0
    assert [row.get("train/loss_rollout") is not None for row in rows] == [fraction > 0 for fraction in fractions]


def test_each_setting_changes_the_run(lab: Lab, straight: list[dict[str, float]]) -> None:
    for name in ("rollout", "timestep_sampling", "shift_by_tokens", "loss_weighting", "noise_offset"):
        without = {key: value for key, value in SETTINGS.items() if key != name} | {"max_steps": 2}
        found = lab.rows(lab.train(f"without {name}", **without))
        assert [row["train/loss"] for row in found[1:3]] != [row["train/loss"] for row in straight[1:3]], name


def test_a_resumed_run_is_the_run_that_never_stopped_whatever_the_micro_batch(
    lab: Lab, straight: list[dict[str, float]]
) -> None:
    lab.train("resumed", **{**SETTINGS, "max_steps": 2})
    lab.assert_same(lab.at("straight", 4), lab.train("resumed", **SETTINGS))
    assert worst(straight, lab.rows(lab.train("larger", **{**SETTINGS, "micro_batch_size": 4}))) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "changed"),
    [("ddp", {}), ("fsdp2", {"sharding": "full", "activation_memory": "recompute_all", "micro_batch_size": 2})],
)
def test_two_ranks_take_the_steps_of_one(
    pair: RankPair, lab: Lab, straight: list[dict[str, float]], name: str, changed: dict[str, Any]
) -> None:
    pair.run(_train, lab.job(name, **{**SETTINGS, **changed}).path)
    found = lab.rows(lab.at(name, 4))
    print(f"{name}: {worst(straight, found):.1e}")
    assert worst(straight, found) < TOLERANCE
    one, two = (load(lab.store, lab.at(trajectory, 4), LEDGER) for trajectory in ("straight", name))
    for part in ("draws", "sigma_counts"):
        assert torch.equal(one[part], two[part])
    for part in ("excess", "square", "level_loss"):
        torch.testing.assert_close(one[part], two[part], rtol=1e-4, atol=1e-5)
    assert one["excess"].abs().sum() > 0


@pytest.mark.slow(group="activations")
def test_offloaded_and_compiled_training_take_the_same_steps(lab: Lab, straight: list[dict[str, float]]) -> None:
    one = {**SETTINGS, "micro_batch_size": 4}
    cases: dict[str, dict[str, Any]] = {
        "offload": {"offload": {"type": "block_level"}, "activation_memory": "auto"},
        "fused": {"fused_backward": True, "gradient_clipping": "none"},
        "whole": {"gradient_clipping": "none"},
    }
    found = {}
    for name, changed in cases.items():
        with fresh_accelerator():
            found[name] = lab.rows(lab.train(name, **{**one, **changed}))
    assert worst(straight, found["offload"]) < TOLERANCE
    assert worst(found["whole"], found["fused"]) < TOLERANCE
    torch._dynamo.reset()
    with fresh_accelerator(), compiled_by(CPU_BACKEND):
        compiled = lab.rows(lab.train("compiled", **{**one, "compile": "always", "activation_memory": 0.5}))
    assert worst(straight, compiled) < TOLERANCE
