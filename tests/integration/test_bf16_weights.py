"""Training in bf16 weights: near the run with fp32 masters, resumed to the bit, evaluated as it is trained."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import SanaVideoTransformer3DModel
from safetensors.torch import load_file

from sana.runtime.launcher import result_path
from sana.runtime.results import EvalReport, TrainResult
from sana.runtime.specs import CheckpointName
from sana.training.checkpoints.checkpoint import Checkpoint
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.ema import Ema
from sana.workers.evaluate import evaluate
from sana.workers.train import train
from tests.training_lab import Lab
from tests.training_store import evaluate_job

pytestmark = pytest.mark.timeout(120)


# of the loss, after each of four steps; the computation is bf16 in both, fp32 weights by autocast
LOSS_TOLERANCE = 0.01
MOVEMENT_TOLERANCE = 0.25  # of the weights, of the length they moved


@pytest.mark.parametrize(
    ("optimizer", "saved"),
    [("adamw_bf16", {"exp_avg"}), ("optimi_adamw", {"exp_avg", "kahan_comp"}), ("adamw_8bit", set())],
)
def test_four_steps_are_near_those_with_fp32_masters_and_resume(lab: Lab, optimizer: str, saved: set) -> None:
    settings = {
        "mixed_precision": "bf16", "weights_dtype": "bf16", "optimizer": {"name": optimizer, "epsilon": 1e-8},
        "checkpoint_every": 2,
    }  # fmt: skip
    masters = lab.train("masters", max_steps=4, mixed_precision="bf16")
    AcceleratorState._reset_state()
    straight = lab.train(f"{optimizer}-straight", max_steps=4, **settings)
    assert lab.losses(straight) == pytest.approx(lab.losses(masters), rel=LOSS_TOLERANCE)
    moved, off = _movement(lab, masters, straight)
    print(f"{optimizer}: weights are {off / moved:.3f} of their movement off those of fp32 masters")
    assert off < MOVEMENT_TOLERANCE * moved
    if optimizer == "optimi_adamw":  # tests/unit/test_optimizers.py resumes them all
        lab.train("half", max_steps=2, **settings)
        lab.assert_same(straight, lab.train("half", max_steps=4, **settings))

    parts = {part: load_file(lab.path(straight.files[f"{part}.safetensors"].key)) for part in ("weights", "ema")}
    assert {tensor.dtype for tensor in parts["weights"].values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in parts["ema"].values()} == {torch.float32}
    assert any(not torch.equal(t, t.to(torch.bfloat16).float()) for t in parts["ema"].values()), "no rounded EMA"
    state = load_file(lab.path(straight.files["optimizer.safetensors"].key))
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in state.items()}
    assert saved <= {kind for kind, dtype in kinds.items() if dtype == torch.bfloat16}


def _movement(lab: Lab, masters: Checkpoint, rounded: Checkpoint) -> tuple[float, float]:
    """Return how far four steps moved all weights with fp32 masters, and how far the others end from there."""
    start = SanaVideoTransformer3DModel.from_pretrained(lab.model / "transformer").state_dict()
    exact, found = (load_file(lab.path(each.files["weights.safetensors"].key)) for each in (masters, rounded))
    moved = sum((exact[name] - start[name]).double().square().sum().item() for name in start)
    off = sum((exact[name] - found[name].float()).double().square().sum().item() for name in start)
    return moved**0.5, off**0.5


def test_evaluation_and_export_see_what_was_trained(lab: Lab, tmp_path: Path) -> None:
    settings = {"mixed_precision": "bf16", "weights_dtype": "bf16", "optimizer": {"name": "adamw_bf16"}}
    job = lab.job("seen", max_steps=2, eval_every=2, **settings)
    train(job)
    (row,) = [row for row in lab.rows(lab.at("seen", 2)) if "eval/loss_live" in row and row["step"] == 2]
    (tmp_path / "out").mkdir()
    evaluate(evaluate_job(lab.encoded, job.config, lab.model, CheckpointName(lab.key("seen"), 2), tmp_path / "out"))
    report = EvalReport.load(tmp_path / "out" / EvalReport.FILE)
    measured = [report.weights["live"].mean, report.weights["ema"].mean]
    assert measured == pytest.approx([row["eval/loss_live"], row["eval/loss_ema"]], rel=1e-6)
    exported = SanaVideoTransformer3DModel.from_pretrained(
        lab.path(TrainResult.load(result_path(job.path)).model) / "transformer", torch_dtype=torch.float32
    )
    ema = load_weights(lab.store, lab.key("seen"), 2, which="ema")
    for name, tensor in exported.state_dict().items():
        assert torch.equal(tensor, ema[name].to(torch.bfloat16).float()), name


def test_swapping_the_ema_weights_in_and_out_loses_nothing() -> None:
    parameters = {"w": torch.nn.Parameter(torch.full((8,), 1.0, dtype=torch.bfloat16))}
    ema = Ema(parameters, 0.9)
    with torch.no_grad():
        parameters["w"].fill_(3.0)
    ema.update(50)
    before = ema.shadow["w"].clone()
    assert before.dtype == torch.float32 and before[0].item() == pytest.approx(1.3125, abs=0.2)
    with ema.swapped_in():
        assert torch.equal(parameters["w"].detach(), before.to(torch.bfloat16))
    assert torch.equal(parameters["w"].detach(), torch.full((8,), 3.0, dtype=torch.bfloat16))
    assert torch.equal(ema.shadow["w"], before)
