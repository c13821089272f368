"""Training with CREPA: the same run on one rank and on two, sharded, compiled, resumed; what is exported."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sana.config.training.crepa import PROJECTOR, PROJECTOR_NAMES
from sana.data.loading.loader import Reader
from sana.runtime.job import read_job
from sana.runtime.launcher import result_path
from sana.runtime.results import EvalReport, TrainResult
from sana.runtime.specs import CheckpointName, ModelSource, TrainSpec
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.workers.evaluate import evaluate
from sana.workers.sample import load_trained
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
from tests.feature_store import FEATURE_SIZE, build_features
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded, evaluate_job

pytestmark = pytest.mark.timeout(240)

CREPA: dict[str, Any] = {"block_index": 0, "weight": 0.8, "schedule": {"name": "cosine", "decay_steps": 6}}
SETTINGS: dict[str, Any] = {
    "crepa": CREPA, "max_steps": 4, "global_batch_size": 4, "micro_batch_size": 1, "checkpoint_every": 2,
    "log_every": 1,
}  # fmt: skip
LORA: dict[str, Any] = {"method": {"name": "lora", "rank": 2}, "learning_rate": 1e-2}
SLOW = pytest.mark.slow(group="exports")
TOLERANCE = 1e-5  # relative, of losses and gradient norms
WIDTH = 24  # of the tiny model


@pytest.fixture(scope="module")
def crepa(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("crepa")
    encoded = build_encoded(folder / "root")
    return Lab(encoded, folder / "lab", tiny_model)


@pytest.fixture(scope="module")
def settings(crepa: Lab) -> dict[str, Any]:
    return {**SETTINGS, "features": build_features(crepa.encoded)}


@pytest.fixture(scope="module")
def straight(crepa: Lab, settings: dict[str, Any]) -> list[dict[str, float]]:
    return crepa.rows(crepa.train("straight", **settings))


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


def weights_of(lab: Lab, trajectory: str, step: int, part: str = "weights") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, the projector's too."""
    checkpoint = lab.at(trajectory, step)
    found: dict[str, torch.Tensor] = {}
    for name, info in checkpoint.files.items():
        if name.startswith((f"{part}.", f"{part}-")):
            found |= load_file(lab.path(info.key))
    return found


def test_steps_say_what_is_aligned_and_the_projector_learns(crepa: Lab, straight: list[dict[str, float]]) -> None:
    rows = [row for row in straight if "train/loss" in row]
    weights = [row["train/crepa_weight"] for row in rows]
    assert len(rows) == 4 and weights == sorted(weights, reverse=True) and weights[0] < 0.8
    assert all(abs(row["train/crepa_similarity"]) < 1 and row["train/crepa_loss"] for row in rows)
    first, last = (weights_of(crepa, "straight", step) for step in (2, 4))
    own = {name: tuple(tensor.shape) for name, tensor in last.items() if name.startswith(PROJECTOR)}
    shapes = {"norm_weight": (WIDTH,), "norm_bias": (WIDTH,), "weight": (FEATURE_SIZE, WIDTH), "bias": (FEATURE_SIZE,)}
    assert own == {f"{PROJECTOR}.{name}": shape for name, shape in shapes.items()} and own.keys() == {*PROJECTOR_NAMES}
    assert all(not torch.equal(first[name], last[name]) for name in own)
    assert own.keys() <= weights_of(crepa, "straight", 4, "ema").keys()
    assert not own.keys() & load_weights(crepa.store, crepa.key("straight"), 4, which="ema").keys()


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_is_the_run_that_never_stopped(
    crepa: Lab, settings: dict[str, Any], straight: list[dict[str, float]], stop: int
) -> None:
    crepa.train(f"resumed{stop}", **{**settings, "max_steps": stop})
    crepa.assert_same(crepa.at("straight", 4), crepa.train(f"resumed{stop}", **settings))


def test_memory_and_micro_batches_change_no_step(
    crepa: Lab, settings: dict[str, Any], straight: list[dict[str, float]]
) -> None:
    for name, changed in (
        ("recompute", {"activation_memory": "recompute_all"}),
        ("larger", {"micro_batch_size": 2}),
        ("offload", {"offload": {"type": "block_level"}, "activation_memory": "auto"}),
    ):
        with fresh_accelerator():
            found = crepa.rows(crepa.train(name, **{**settings, **changed}))
        assert worst(straight, found) < TOLERANCE, name


@pytest.mark.parametrize(
    ("name", "changed", "backend"),
    [
        ("ddp", {}, None),
        pytest.param("fsdp2", {"sharding": "full", "activation_memory": "recompute_all"}, None, marks=SLOW),
        pytest.param(
            "compiled", {"sharding": "full", "compile": "always", "activation_memory": 0.5}, CPU_BACKEND,
            marks=pytest.mark.slow(group="activations"),
        ),
    ],
)  # fmt: skip
def test_two_ranks_take_the_steps_of_one(
    pair: RankPair, crepa: Lab, settings: dict[str, Any], straight: list[dict[str, float]], name: str,
    changed: dict[str, Any], backend: str | None,
) -> None:  # fmt: skip
    pair.run(_train, crepa.job(name, **{**settings, **changed}).path, backend, time_limit_s=180)
    found = crepa.rows(crepa.at(name, 4))
    print(f"{name}: {worst(straight, found):.1e}")
    assert worst(straight, found) < TOLERANCE
    one, two = weights_of(crepa, "straight", 4), weights_of(crepa, name, 4)
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=SLOW)])
def test_after_the_cut_off_nothing_is_measured_or_added(
    pair: RankPair, crepa: Lab, settings: dict[str, Any], sharding: str
) -> None:
    """The steps before are those with it; the projector then has gradients of zeros, on every rank."""
    cut = {**settings, "crepa": {**CREPA, "cutoff_step": 2}}
    one = crepa.rows(crepa.train(f"cut-{sharding}", **cut))
    job = crepa.job(f"cut2-{sharding}", **cut, sharding=sharding)
    pair.run(_train, job.path, None)
    assert worst(one, crepa.rows(crepa.at(f"cut2-{sharding}", 4))) < TOLERANCE
    measured = ["train/crepa_loss" in row for row in one if "train/loss" in row]
    assert measured == [True, True, False, False]


def test_after_the_cut_off_no_feature_is_read(
    crepa: Lab, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bool] = []
    read_batch = Reader.read_batch

    def noting(self: Reader, wanted: Any, **named: Any) -> Any:
        batch = read_batch(self, wanted, **named)
        read.append("features" in batch.tensors)
        return batch

    monkeypatch.setattr(Reader, "read_batch", noting)
    cut = {**settings, "crepa": {**CREPA, "cutoff_step": 1}, "max_steps": 2, "prefetch_batches": 1}
    crepa.train("unread", **cut)
    assert read == [True] * 4 + [False] * 4


@SLOW
def test_a_float32_projector_is_sharded_beside_bf16_weights(
    pair: RankPair, crepa: Lab, settings: dict[str, Any]
) -> None:
    bf16 = {"weights_dtype": "bf16", "mixed_precision": "bf16", "optimizer": {"name": "adamw_bf16"}}
    changed = {**settings, **bf16, "max_steps": 2}
    with fresh_accelerator():
        one = crepa.rows(crepa.train("bf16", **changed))
    pair.run(_train, crepa.job("bf16-2", **changed, sharding="full").path, None)
    assert worst(one, crepa.rows(crepa.at("bf16-2", 2))) < 0.02
    assert weights_of(crepa, "bf16-2", 2)[f"{PROJECTOR}.weight"].dtype == torch.float32


def test_an_adapter_learns_beside_it_on_two_ranks_as_on_one(
    pair: RankPair, crepa: Lab, settings: dict[str, Any]
) -> None:
    changed = {**settings, **LORA, "max_steps": 2}
    one = crepa.rows(crepa.train("lora", **changed))
    pair.run(_train, crepa.job("lora2", **changed, sharding="full").path, None)
    assert worst(one, crepa.rows(crepa.at("lora2", 2))) < TOLERANCE
    names = weights_of(crepa, "lora2", 2)
    assert {*PROJECTOR_NAMES} < names.keys() and all(".lora_" in name for name in names.keys() - {*PROJECTOR_NAMES})


@pytest.mark.parametrize("method", [pytest.param({}, marks=SLOW), LORA], ids=["full", "lora"])
def test_what_is_exported_evaluated_and_sampled_is_the_model_alone(
    crepa: Lab, settings: dict[str, Any], tmp_path: Path, method: dict[str, Any]
) -> None:
    name = f"exported-{len(method)}"
    job = crepa.job(name, **{**settings, "max_steps": 2, "eval_every": 2, "mixed_precision": "bf16", **method})
    train(job)
    after = crepa.rows(crepa.at(name, 2))[-1]
    evaluate(evaluate_job(crepa.encoded, job.config, crepa.model, CheckpointName(crepa.key(name), 2), tmp_path))
    report = EvalReport.load(tmp_path / EvalReport.FILE, repair_hint="")
    assert report.weights["ema"].mean == after["eval/loss_ema"]
    result = TrainResult.load(result_path(job.path), repair_hint="")
    keys = [info.key for info in result.files.values() if info.key.endswith(".safetensors")]
    exported = [key for key in keys if not key.startswith("model/base")]
    assert exported and not [name for key in exported for name in load_file(crepa.path(key)) if PROJECTOR in name]
    model = ModelSource(str(crepa.model), None)
    pipe = load_trained(job.config, crepa.store, model, CheckpointName(crepa.key(name), 2))
    assert not [name for name in pipe.transformer.state_dict() if PROJECTOR in name]
    grown = [name for name in weights_of(crepa, name, 2) if name.startswith(PROJECTOR)]
    assert len(grown) == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"weights_dtype": "bf16", "mixed_precision": "bf16", "optimizer": {"name": "adamw_bf16"}},
        {"max_skipped_steps": 2},
        {"fused_backward": True, "gradient_clipping": "none", "micro_batch_size": 4},
    ],
    ids=["bf16", "skipped", "fused"],
)
@SLOW
def test_other_settings_go_with_it(crepa: Lab, settings: dict[str, Any], changed: dict[str, Any]) -> None:
    name = f"with-{next(iter(changed))}"
    crepa.train(name, **{**settings, **changed, "max_steps": 2})
    one, two = (weights_of(crepa, name, 2, part) for part in ("weights", "ema"))
    own = f"{PROJECTOR}.weight"
    assert one[own].dtype == torch.float32 and not torch.equal(one[own], two[own])


def test_unset_no_bit_is_different(crepa: Lab, settings: dict[str, Any]) -> None:
    off = {**SETTINGS, "crepa": None}
    crepa.assert_same(crepa.train("off", **off), crepa.train("never", **{k: v for k, v in off.items() if k != "crepa"}))
    assert not [name for name in weights_of(crepa, "off", 4) if name.startswith(PROJECTOR)]
