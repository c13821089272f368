"""Training with compiled blocks: the numbers of eager training within a bound, its own bits after a resume."""

import logging
import os
from pathlib import Path

import pytest
import torch

from sana.facts import ComputeSettings
from sana.training.checkpoints.checkpoint import read_metrics
from sana.training.metrics import parse_rows
from sana.workers.train import train
from tests.training_lab import Lab

pytestmark = [pytest.mark.slow(group="compile"), pytest.mark.timeout(600)]
BOUND = 1e-5  # relative, of losses and gradient norms over four steps in float32


def test_compiled_training_is_eager_training_and_resumes_bit_for_bit(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    settings = {"checkpoint_every": 2, "eval_every": 4}
    eager = lab.train("eager", max_steps=4, **settings)
    compiled = {"compile": "always", "activation_memory": 0.5, **settings}
    straight = lab.train("straight", max_steps=4, **compiled)
    worst = max(
        abs(a[name] / b[name] - 1)
        for a, b in zip(lab.rows(eager), lab.rows(straight), strict=True)
        for name in ("train/loss", "train/grad_norm", "eval/loss_live", "eval/loss_ema")
        if name in a
    )
    print(f"worst relative difference of compiled and eager training: {worst:.1e}")
    assert 0 < worst < BOUND  # 0 would be training that was not compiled
    misses = _cache_misses()
    lab.train("resumed", max_steps=2, **compiled)
    torch._dynamo.reset()  # as a new process: only the folder is left
    lab.assert_same(straight, lab.train("resumed", max_steps=4, **compiled))
    assert _cache_misses() == misses, "a second start compiled something"
    assert any(os.scandir(tmp_path / "compiled"))
    rows = parse_rows(read_metrics(lab.store, straight))
    graphs = [row["compile/graphs"] for row in rows if "compile/graphs" in row]
    assert graphs[-1] == 4  # two buckets, in training and in evaluation
    assert straight.compute == ComputeSettings("cpu", str(torch.__version__), True, 0.5, 2, 1, precision="fp32")
    assert eager.compute is not None and eager.compute.compiled is False
    # a resume under other settings says so
    job = lab.job("resumed", max_steps=5, **settings)
    with caplog.at_level(logging.INFO):
        train(job)
    assert "resuming from step 4; other last bits from here: compiled True -> False" in caplog.text
    assert lab.at("resumed", 5).compute == eager.compute


def _cache_misses() -> int:
    return int(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"])
