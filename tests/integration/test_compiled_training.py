"""Training with compiled blocks: the numbers of eager training within a bound, its own bits after a resume."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sana.facts import ComputeSettings
from sana.metrics import parse_rows
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName
from sana.training.checkpoints.checkpoint import read_metrics
from sana.workers.evaluate import evaluate
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
from tests.training_lab import Lab
from tests.training_store import evaluate_job, train_config

pytestmark = pytest.mark.timeout(600)
# relative, of losses and gradient norms over four steps. On a CPU 7.2e-8 was seen; on a GPU nothing yet. What is fused
# with a product in bf16 rounds at other places
BOUNDS = {("cpu", "fp32"): 1e-5, ("cuda", "fp32"): 1e-4, ("cuda", "bf16"): 2e-2}
ON_A_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(autouse=True)
def accelerator() -> Iterator[None]:
    torch._dynamo.reset()
    with fresh_accelerator():
        yield


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        pytest.param("cpu", "fp32", marks=pytest.mark.slow(group="compile")),
        pytest.param("cuda", "fp32", marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
    ],
)
def test_compiled_training_is_eager_training_and_resumes_bit_for_bit(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    precision: str,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    settings = {"checkpoint_every": 2, "eval_every": 4, "device": device, "mixed_precision": precision}
    eager = lab.train("eager", max_steps=4, **{**settings, "compile": "never"})
    compiled = {"compile": "always", "activation_memory": 0.5, **settings}
    straight = lab.train("straight", max_steps=4, **compiled)
    worst = max(
        abs(a[name] / b[name] - 1)
        for a, b in zip(lab.rows(eager), lab.rows(straight), strict=True)
        for name in ("train/loss", "train/grad_norm", "eval/loss_live", "eval/loss_ema")
        if name in a
    )
    print(f"worst relative difference of compiled and eager training: {worst:.1e}")
    assert 0 < worst < BOUNDS[device, precision]  # 0 would be training that was not compiled
    misses = _cache_misses()
    lab.train("resumed", max_steps=2, **compiled)
    torch._dynamo.reset()  # as a new process: only the folder is left
    lab.assert_same(straight, lab.train("resumed", max_steps=4, **compiled))
    assert _cache_misses() == misses, "a second start compiled something"
    assert any(os.scandir(tmp_path / "compiled"))
    rows = parse_rows(read_metrics(lab.store, straight))
    graphs = [row["compile/graphs"] for row in rows if "compile/graphs" in row]
    assert graphs[-1] == 4  # two buckets, in training and in evaluation
    assert straight.compute == ComputeSettings(
        torch.cuda.get_device_name() if device == "cuda" else "cpu", str(torch.__version__), True, 0.5, 2, 1,
        precision="bf16 autocast" if precision == "bf16" else "fp32",
    )  # fmt: skip
    assert eager.compute is not None and eager.compute.compiled is False
    # a resume under other settings says so
    job = lab.job("resumed", max_steps=5, **{**settings, "compile": "never"})
    with caplog.at_level(logging.INFO):
        train(job)
    said = next(text for text in caplog.messages if "resuming from step 4" in text)
    assert said.endswith("; other last bits from here: compiled True -> False")
    assert lab.at("resumed", 5).compute == eager.compute


def _cache_misses() -> int:
    return int(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"])


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow(group="activations")), ON_A_GPU])
def test_the_stage_evaluates_compiled_blocks_as_the_loop_does(lab: Lab, tmp_path: Path, device: str) -> None:
    settings = {"device": device, "compile": "always", "activation_memory": 0.5}
    out = tmp_path / "report"
    with compiled_by(CPU_BACKEND if device == "cpu" else "inductor"):
        saved = lab.train("saved", max_steps=2, eval_every=2, **settings)
        config = train_config(lab.encoded, tmp_path / "evaluate", lab.model, **settings)
        checkpoint = CheckpointName(lab.key("saved"), 2)
        evaluate(evaluate_job(lab.encoded, config, lab.model, checkpoint, out))
    report = EvalReport.load(out / EvalReport.FILE)
    first, *_, last = [row for row in lab.rows(saved) if "eval/loss_live" in row]
    assert report.compute is not None and report.compute.compiled
    found = {name: weights.mean for name, weights in report.weights.items()}
    expected = {"initial": first["eval/loss_live"], "live": last["eval/loss_live"], "ema": last["eval/loss_ema"]}
    assert found == expected
