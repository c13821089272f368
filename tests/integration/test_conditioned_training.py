"""Training with conditions: the same run on one rank and on two, sharded, compiled, resumed; by data set."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from sana.runtime.job import read_job
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName, TrainSpec
from sana.workers.evaluate import evaluate
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded, build_masks, evaluate_job, train_config

pytestmark = pytest.mark.timeout(240)

# the first condition is of all data sets but `captioned`, the second of none
CONDITIONS = [
    {"name": "image_to_video", "probability": 0.5},
    {"name": "inpaint", "probability": 0.3, "max_boxes": 2},
]
DATASETS = [
    {"id": "moving", "source": "unused"},
    {"id": "captioned", "source": "unused", "conditions": []},
]
SETTINGS: dict[str, Any] = {
    "conditions": CONDITIONS, "datasets": DATASETS, "max_steps": 4, "global_batch_size": 4, "micro_batch_size": 1,
    "checkpoint_every": 2, "log_every": 1,
}  # fmt: skip
TOLERANCE = 1e-5  # relative, of losses and gradient norms


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("conditions")
    encoded = build_encoded(folder / "root", datasets=("moving", "captioned"))
    return Lab(encoded, folder / "lab", tiny_model)


@pytest.fixture(scope="module")
def straight(lab: Lab) -> list[dict[str, float]]:
    return lab.rows(lab.train("straight", **SETTINGS))


def _train(job_path: Path, backend: str | None) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    if backend is None:
        train(read_job(job_path, TrainSpec))
        return
    torch._dynamo.reset()
    with compiled_by(backend):
        train(read_job(job_path, TrainSpec))


def worst(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Return the largest relative difference of all that was measured; the same must have been."""
    pairs = []
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        pairs += [(left[name], right[name]) for name in left if name != "step"]
    return max(abs(one - other) / max(abs(one), 1e-3) for one, other in pairs)


def test_each_step_says_what_its_samples_were(straight: list[dict[str, float]]) -> None:
    rows = [row for row in straight if "train/loss" in row]
    labels = ("text_to_video", "image_to_video", "inpaint")
    assert len(rows) == 4
    for row in rows:
        fractions = {label: row[f"train/fraction_{label}"] for label in labels}
        assert sum(fractions.values()) == pytest.approx(1.0)
        losses = {label: row[f"train/loss_{label}"] for label in labels if fractions[label]}
        assert {f"train/loss_{label}" for label in losses} == {name for name in row if name.startswith("train/loss_")}
        assert row["train/loss"] == pytest.approx(sum(fractions[label] * losses[label] for label in losses), rel=1e-5)
    total = {label: sum(row[f"train/fraction_{label}"] for row in rows) for label in labels}
    assert min(total.values()) > 0


def test_a_resumed_run_is_the_run_that_never_stopped_whatever_the_micro_batch(
    lab: Lab, straight: list[dict[str, float]]
) -> None:
    lab.train("resumed", **{**SETTINGS, "max_steps": 2})
    lab.assert_same(lab.at("straight", 4), lab.train("resumed", **SETTINGS))
    assert worst(straight, lab.rows(lab.train("larger", **{**SETTINGS, "micro_batch_size": 2}))) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "changed", "backend"),
    [
        ("ddp", {}, None),
        ("fsdp2", {"sharding": "full", "activation_memory": "recompute_all"}, None),
        pytest.param(
            "compiled", {"sharding": "full", "compile": "always", "activation_memory": 0.5}, CPU_BACKEND,
            marks=pytest.mark.slow(group="activations"),
        ),
    ],
)  # fmt: skip
def test_two_ranks_take_the_steps_of_one(
    pair: RankPair, lab: Lab, straight: list[dict[str, float]], name: str, changed: dict[str, Any], backend: str | None
) -> None:
    pair.run(_train, lab.job(name, **{**SETTINGS, **changed}).path, backend, time_limit_s=180)
    found = lab.rows(lab.at(name, 4))
    print(f"{name}: {worst(straight, found):.1e}")
    assert worst(straight, found) < TOLERANCE


def test_the_clips_own_masks_are_read_and_inpainted(lab: Lab) -> None:
    masked = [{"id": "moving", "source": "unused", "masks": {"suffix": ".mask"}}]
    condition = [{"name": "inpaint_mask", "probability": 1.0}]
    settings = {**SETTINGS, "max_steps": 2, "conditions": condition, "datasets": masked, "eval_every": 2}
    rows = lab.rows(lab.train("own-masks", **settings, masks=build_masks(lab.encoded)))
    given = sum(row["train/fraction_inpaint_mask"] for row in rows if "train/loss" in row)
    assert 0 < given < 2  # the mask of the first clip is white all over
    assert not [name for row in rows for name in row if name.startswith("eval/") and "inpaint" in name]


def test_the_eval_loss_with_each_condition_is_measured_in_the_loop_and_by_the_stage(lab: Lab, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_steps": 2, "eval_every": 2}
    saved = lab.train("evaluated", **settings)
    first, last = (row for row in lab.rows(saved) if "eval/loss_ema" in row)
    labels = ["image_to_video", "inpaint"]
    names = {
        f"eval/{kind}_{weights}_{label}"
        for kind in ("loss", "stderr")
        for weights in ("live", "ema")
        for label in labels
    }
    assert names <= first.keys() and names <= last.keys()
    assert len({last[f"eval/loss_ema{label}"] for label in ("", "_image_to_video", "_inpaint")}) == 3
    plain = lab.rows(lab.train("plain-eval", **{**settings, "conditions": [], "datasets": DATASETS[:1]}))
    assert plain[0]["eval/loss_live"] == first["eval/loss_live"]  # that of text to video, as ever
    assert not names & plain[0].keys()

    config = train_config(lab.encoded, tmp_path / "evaluate", lab.model, **settings)
    out = tmp_path / "report"
    evaluate(evaluate_job(lab.encoded, config, lab.model, CheckpointName(lab.key("evaluated"), 2), out))
    report = EvalReport.load(out / "report.json")
    assert list(report.conditions) == labels
    for label, found in report.conditions.items():
        assert found.num_samples == 4 and found.paired["ema"].num_samples == 4
        assert {name: loss.mean for name, loss in found.weights.items()} == {
            "initial": first[f"eval/loss_live_{label}"],
            "live": last[f"eval/loss_live_{label}"],
            "ema": last[f"eval/loss_ema_{label}"],
        }
    table = pq.read_table(out / "condition_losses.parquet")
    assert table.num_rows == 2 * 3 * 4 * 4 and table.schema.names[0] == "condition"
    off = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"conditions": False})})
    assert off.evaluated_conditions == {}


def test_the_conditions_of_a_data_set_are_those_of_its_samples(lab: Lab) -> None:
    only = {**SETTINGS, "conditions": [], "max_steps": 6, "checkpoint_every": 100}
    mine = [{**DATASETS[0], "conditions": [{"name": "image_to_video", "probability": 1.0}]}, {**DATASETS[1]}]
    rows = lab.rows(lab.train("mine", **{**only, "datasets": mine}))
    given = sum(row["train/fraction_image_to_video"] for row in rows if "train/loss" in row)
    assert given == pytest.approx(6 * 6 / 11, abs=0.6)  # six of eleven samples are of `moving`
    none = [{**dataset, "conditions": []} for dataset in DATASETS]
    off = lab.train("off", **{**only, "datasets": none})
    lab.assert_same(off, lab.train("plain", **{**only, "datasets": DATASETS[:1]}))
    assert not [name for row in lab.rows(off) for name in row if "text_to_video" in name]


@pytest.mark.slow(group="activations")
def test_offloaded_and_compiled_training_take_the_same_steps(lab: Lab, straight: list[dict[str, float]]) -> None:
    for name, changed in (
        ("offload", {"offload": {"type": "block_level"}, "activation_memory": "auto"}),
        ("recompute", {"activation_memory": "recompute_all"}),
    ):
        with fresh_accelerator():
            found = lab.rows(lab.train(name, **{**SETTINGS, **changed}))
        assert worst(straight, found) < TOLERANCE, name
    torch._dynamo.reset()
    with fresh_accelerator(), compiled_by(CPU_BACKEND):
        found = lab.rows(lab.train("compiled-alone", **{**SETTINGS, "compile": "always", "activation_memory": 0.5}))
    assert worst(straight, found) < TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_gpu_takes_the_steps_of_the_cpu_compiled_too(
    lab: Lab, straight: list[dict[str, float]], precision: str, bound: float
) -> None:
    for compiled in ("never", "always"):
        torch._dynamo.reset()
        settings = {**SETTINGS, "device": "cuda", "mixed_precision": precision, "compile": compiled}
        with fresh_accelerator():
            found = lab.rows(lab.train(f"gpu-{precision}-{compiled}", **settings))
        assert worst(straight, found) < bound
