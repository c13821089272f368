"""Training inside masks: the same run on one rank and on two, sharded and resumed; what each step measures."""

from pathlib import Path
from typing import Any

import pytest

from sana.runtime.job import read_job
from sana.runtime.specs import TrainSpec
from sana.workers.train import train
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded, build_masks

pytestmark = pytest.mark.timeout(240)

TOLERANCE = 1e-5  # relative, of losses and gradient norms


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("masked")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


@pytest.fixture(scope="module")
def settings(lab: Lab) -> dict[str, Any]:
    return {
        "masks": build_masks(lab.encoded), "masked_loss": {"probability": 0.7},
        "conditions": [{"name": "image_to_video", "probability": 0.5}],
        "datasets": [{"id": "demo", "source": "unused", "masks": {"suffix": ".mask"}}],
        "max_steps": 4, "global_batch_size": 4, "micro_batch_size": 1, "checkpoint_every": 2, "log_every": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def straight(lab: Lab, settings: dict[str, Any]) -> list[dict[str, float]]:
    return lab.rows(lab.train("straight", **settings))


def worst(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Return the largest relative difference of all that was measured; the same must have been."""
    pairs = []
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        pairs += [(left[name], right[name]) for name in left if name != "step"]
    return max(abs(one - other) / max(abs(one), 1e-3) for one, other in pairs)


def test_masks_change_the_loss_and_say_what_they_cover(
    lab: Lab, settings: dict[str, Any], straight: list[dict[str, float]]
) -> None:
    covered = [row["train/mask_covered"] for row in straight if "train/loss" in row]
    assert len(covered) == 4 and all(0.1 < one < 1.0 for one in covered)
    plain = lab.rows(lab.train("plain", **{**settings, "masks": None, "masked_loss": None}))
    losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in (straight, plain)]
    assert losses[0] != losses[1] and not any("train/mask_covered" in row for row in plain)


def test_a_resumed_run_is_the_run_that_never_stopped_whatever_the_micro_batch(
    lab: Lab, settings: dict[str, Any], straight: list[dict[str, float]]
) -> None:
    lab.train("resumed", **{**settings, "max_steps": 2})
    lab.assert_same(lab.at("straight", 4), lab.train("resumed", **settings))
    assert worst(straight, lab.rows(lab.train("larger", **{**settings, "micro_batch_size": 2}))) < TOLERANCE


def _train(job_path: Path) -> None:
    train(read_job(job_path, TrainSpec))


@pytest.mark.parametrize(
    "changed", [{}, {"sharding": "full", "activation_memory": "recompute_all"}], ids=["ddp", "fsdp2"]
)
def test_two_ranks_take_the_steps_of_one(
    pair: RankPair, lab: Lab, settings: dict[str, Any], straight: list[dict[str, float]], changed: dict[str, Any]
) -> None:
    name = f"two-{len(changed)}"
    pair.run(_train, lab.job(name, **{**settings, **changed}).path, time_limit_s=180)
    assert worst(straight, lab.rows(lab.at(name, 4))) < TOLERANCE
