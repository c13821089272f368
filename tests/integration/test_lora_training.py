"""Training an adapter as the loop does it: what is saved, resumed, evaluated, sampled and exported."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sana.runtime.launcher import result_path
from sana.runtime.results import EvalReport, TrainResult
from sana.runtime.specs import CheckpointName, InitialWeights, ModelSource
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.workers.evaluate import evaluate
from sana.workers.sample import load_trained
from sana.workers.train import train
from tests.training_lab import Lab
from tests.training_store import evaluate_job

pytestmark = pytest.mark.timeout(120)

LORA: dict[str, Any] = {"method": {"name": "lora", "rank": 2, "targets": ["self_attention", "feed_forward"]}}
FAST = {**LORA, "learning_rate": 1e-2}


def test_a_checkpoint_holds_the_adapter_alone_and_resuming_changes_no_bit(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=4, checkpoint_every=2, eval_every=2, **FAST)
    lab.train("half", max_steps=2, checkpoint_every=2, eval_every=2, **FAST)
    lab.assert_same(straight, lab.train("half", max_steps=4, checkpoint_every=2, eval_every=2, **FAST))
    losses = lab.losses(straight)
    assert len(set(losses)) == 4
    parts = {part: load_file(lab.path(straight.files[f"{part}.safetensors"].key)) for part in ("weights", "ema")}
    for tensors in parts.values():
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert len(tensors) == 2 * 2 * 7 and all(".lora_" in name for name in tensors)
    moved = [name for name, tensor in parts["weights"].items() if name.endswith("lora_B.weight") and tensor.any()]
    assert len(moved) == 2 * 7


def test_evaluate_sample_and_the_export_agree_with_the_loop(lab: Lab) -> None:
    job = lab.job("run", max_steps=3, eval_every=3, mixed_precision="bf16", **FAST)
    train(job)
    checkpoint = lab.at("run", 3)
    after = lab.rows(checkpoint)[-1]
    evaluated = evaluate_job(lab.encoded, job.config, lab.model, CheckpointName(lab.key("run"), 3), lab.folder / "out")
    evaluate(evaluated)
    report = EvalReport.load(lab.folder / "out" / EvalReport.FILE, repair_hint="")
    assert {name: report.weights[name].mean for name in ("live", "ema")} == {
        name: after[f"eval/loss_{name}"] for name in ("live", "ema")
    }
    assert report.weights["live"].mean < report.weights["initial"].mean

    result = TrainResult.load(result_path(job.path), repair_hint="")
    assert set(result.files) == {"model/pytorch_lora_weights.safetensors"}
    exported = load_file(lab.path(result.files["model/pytorch_lora_weights.safetensors"].key))
    ema = load_weights(lab.store, lab.key("run"), 3, which="ema")
    assert exported.keys() == {f"transformer.{name}" for name in ema}
    assert all(torch.equal(exported[f"transformer.{name}"], tensor) for name, tensor in ema.items())

    model = ModelSource(str(lab.model), None)
    pipe = load_trained(job.config, lab.store, model, CheckpointName(lab.key("run"), 3))
    found = {name: tensor for name, tensor in pipe.transformer.state_dict().items() if ".lora_" in name}
    assert len(found) == len(ema) and {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_a_run_begins_with_the_adapter_of_an_earlier_one(lab: Lab, tmp_path: Any) -> None:
    first = lab.train("first", max_steps=2, eval_every=2, **FAST)
    after = lab.rows(first)[-1]
    start = InitialWeights(CheckpointName(lab.key("first"), 2), None, "ema", optimizer=False)
    second = lab.train("second", max_steps=1, eval_every=1, initial=start, **FAST)
    assert lab.rows(second)[0]["eval/loss_live"] == after["eval/loss_ema"]


def test_lora_plus_and_groups_multiply(lab: Lab) -> None:
    """AdamW's first step along a gradient moves a number by its learning rate: B in the first step, A in the second."""
    settings = {
        "method": {**LORA["method"], "lora_plus_ratio": 8.0}, "learning_rate": 1e-3, "max_grad_norm": 1e9,
        "parameter_groups": [{"names": "*.attn1.*", "learning_rate_factor": 0.5}], "lr_schedule": {"warmup_steps": 0},
        "optimizer": {"epsilon": 1e-30, "beta1": 0.0, "beta2": 0.0},
    }  # fmt: skip
    lab.train("run", max_steps=2, checkpoint_every=1, **settings)
    first, second = (load_weights(lab.store, lab.key("run"), step, which="live") for step in (1, 2))
    for name in second:
        factor = (0.5 if ".attn1." in name else 1.0) * (8.0 if name.endswith("lora_B.weight") else 1.0)
        moved = (second[name] - first[name]).abs().max().item()
        assert moved == pytest.approx(1e-3 * factor, rel=1e-3), name
