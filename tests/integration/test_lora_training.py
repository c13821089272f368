"""Training an adapter as the loop does it: what is saved, resumed, evaluated, sampled and exported."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sana.metrics import COMPILED_GRAPHS, parse_rows
from sana.model.adapters.quantized_layers import QuantizedLinear
from sana.runtime.launcher import result_path
from sana.runtime.results import EvalReport, TrainResult
from sana.runtime.specs import CheckpointName, InitialWeights, ModelSource
from sana.training.checkpoints.checkpoint import read_metrics
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.workers.evaluate import evaluate
from sana.workers.sample import load_trained
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
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


WAYS: dict[str, dict[str, Any]] = {
    "recomputed": {"activation_memory": "recompute_all"},
    "offloaded": {"offload": {"type": "block_level", "use_stream": True}, "activation_memory": "recompute_all"},
    "stepped in the backward pass": {"fused_backward": True},
    "EMA on the host": {"ema_device": "cpu"},
}


SLOW = pytest.mark.slow(group="exports")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": {**LORA["method"], "use_dora": True}},
        pytest.param({"frozen": ["*.attn2.*", "time_embed.*"]}, marks=SLOW),
        pytest.param({**LORA, "base_weights": "fp8_cast"}, marks=SLOW),
    ],
    ids=["dora", "frozen", "fp8_cast"],
)
def test_other_ways_to_compute_change_no_bit(lab: Lab, settings: dict[str, Any]) -> None:
    settings = {
        "max_steps": 3, "eval_every": 3, "learning_rate": 1e-2, "gradient_clipping": "none", "micro_batch_size": 4,
        **settings,
    }  # fmt: skip
    plain = lab.train("plain", **settings)
    for way, changed in WAYS.items():
        if way == "offloaded" and "base_weights" in settings:
            continue
        with fresh_accelerator():
            lab.assert_same(plain, lab.train(way.replace(" ", "-"), **{**settings, **changed}))
    with fresh_accelerator():
        skipping = lab.train("skipping", **settings, max_skipped_steps=2)
    assert skipping.files["weights.safetensors"].digest == plain.files["weights.safetensors"].digest


@pytest.mark.slow(group="adapters")
@pytest.mark.parametrize(
    "settings", [{"dropout": 0.3}, {"use_dora": True, "dropout": 0.3}, {"base": "int8"}], ids=["lora", "dora", "int8"]
)
def test_compiled_blocks_are_one_graph_a_shape_and_near(lab: Lab, settings: dict[str, Any]) -> None:
    base_weights = settings.pop("base", "plain")
    settings = {**FAST, "method": {**LORA["method"], **settings}, "max_steps": 3, "eval_every": 3}
    settings["base_weights"] = base_weights
    plain = lab.losses(lab.train("plain", **settings))
    with fresh_accelerator(), compiled_by(CPU_BACKEND):
        compiled = lab.train("compiled", **settings, compile="always")
    assert lab.losses(compiled) == pytest.approx(plain, rel=1e-5)
    rows = parse_rows(read_metrics(lab.store, compiled))
    graphs = [row[COMPILED_GRAPHS] for row in rows if COMPILED_GRAPHS in row]
    assert 1 <= graphs[-1] <= 4  # two buckets, in training and in evaluation


def test_dropout_is_resumed_and_has_an_effect(lab: Lab) -> None:
    settings = {**FAST, "method": {**LORA["method"], "dropout": 0.5}}
    straight = lab.train("straight", **settings, max_steps=4, checkpoint_every=2)
    lab.train("half", **settings, max_steps=2, checkpoint_every=2)
    lab.assert_same(straight, lab.train("half", **settings, max_steps=4, checkpoint_every=2))
    none = lab.losses(lab.train("none", **FAST, max_steps=4))
    assert lab.losses(straight)[0] == none[0]  # B is zero
    assert all(a != b for a, b in zip(lab.losses(straight)[1:], none[1:], strict=True))


@pytest.mark.parametrize("base_weights", ["plain", "fp8"])
def test_evaluate_sample_and_the_export_agree_with_the_loop(lab: Lab, base_weights: str) -> None:
    job = lab.job("run", max_steps=3, eval_every=3, mixed_precision="bf16", base_weights=base_weights, **FAST)
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
    assert {"model/pytorch_lora_weights.safetensors", "model/merged/model_index.json"} < set(result.files)
    exported = load_file(lab.path(result.files["model/pytorch_lora_weights.safetensors"].key))
    ema = load_weights(lab.store, lab.key("run"), 3, which="ema")
    assert exported.keys() == {f"transformer.{name}" for name in ema}
    assert all(torch.equal(exported[f"transformer.{name}"], tensor) for name, tensor in ema.items())

    model = ModelSource(str(lab.model), None)
    pipe = load_trained(job.config, lab.store, model, CheckpointName(lab.key("run"), 3))
    # a base in 8 bits is sampled from as it was trained on
    stored = any(isinstance(module, QuantizedLinear) for module in pipe.transformer.modules())
    assert stored == (base_weights != "plain")
    found = {name: tensor for name, tensor in pipe.transformer.state_dict().items() if ".lora_" in name}
    assert len(found) == len(ema) and {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


FROZEN = ("*.lora_A.weight",)


@pytest.mark.parametrize(("before", "now"), [((), ()), (FROZEN, FROZEN), ((), FROZEN), (FROZEN, ())])
def test_a_run_begins_with_the_adapter_of_an_earlier_one(lab: Lab, before: Sequence[str], now: Sequence[str]) -> None:
    """All of it, what is frozen in either among it."""
    first = lab.train("first", max_steps=2, eval_every=2, frozen=before, **FAST)
    after = lab.rows(first)[-1]
    start = InitialWeights(CheckpointName(lab.key("first"), 2), None, "ema", optimizer=False)
    second = lab.train("second", max_steps=1, eval_every=1, initial=start, frozen=now, **FAST)
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
