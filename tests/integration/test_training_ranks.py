"""Two ranks take the steps of one, and the evaluate stage computes the loop's eval loss."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName
from sana.training.checkpoints.checkpoint_io import OPTIONAL_PARTS, PARTS
from sana.workers import evaluate as evaluate_worker
from sana.workers.evaluate import evaluate
from tests.training_lab import Lab
from tests.training_store import evaluate_job, train_config

pytestmark = pytest.mark.timeout(240)


def test_two_ranks_take_the_same_steps(lab: Lab) -> None:
    settings = {"max_steps": 8, "micro_batch_size": 1, "eval_every": 4}
    one = lab.train("one", **settings)
    lab.run(lab.job("two", **settings, num_processes=2), ranks=2)
    two = lab.at("two", 8)
    parts = sorted([*PARTS, *OPTIONAL_PARTS])
    assert list(two.files) == [f"{part}-0000{k}-of-00002.safetensors" for part in parts for k in (1, 2)]
    sizes = [two.files[f"weights-0000{k}-of-00002.safetensors"].num_bytes for k in (1, 2)]
    assert max(sizes) < 1.2 * min(sizes)  # each writes its share
    worst = {name: _worst(lab.rows(one), lab.rows(two), name) for name in ("train/loss", "train/grad_norm")}
    print(f"worst relative deviation on 2 ranks: {worst}")
    assert max(worst.values()) < 1e-5
    first_of_one, first_of_two = lab.rows(one)[0], lab.rows(two)[0]
    assert first_of_one == first_of_two and first_of_one["step"] == 0  # eval loss: bit-equal
    # each resumes on the other's number of ranks
    lab.run(lab.job("one", **{**settings, "max_steps": 10}, num_processes=2), ranks=2)
    swapped = lab.rows(lab.train("two", **{**settings, "max_steps": 10}))
    assert _worst(lab.rows(lab.at("one", 10)), swapped, "train/loss") < 1e-5
    assert _worst(lab.rows(lab.at("one", 10)), swapped, "train/grad_norm") < 1e-5
    # the evaluate stage computes the loop's eval loss, on one rank and on two
    loop_row = [row for row in lab.rows(two) if "eval/loss_ema" in row][-1]
    reports = [_evaluate(lab, "two", 8, ranks=ranks) for ranks in (1, 2)]
    # the number of ranks is recorded, and changes nothing
    assert [report.compute.num_ranks for report in reports if report.compute] == [1, 2]
    assert replace(reports[0], compute=None) == replace(reports[1], compute=None)
    assert reports[0].weights["live"].mean == loop_row["eval/loss_live"]
    assert reports[0].weights["ema"].mean == loop_row["eval/loss_ema"]
    assert reports[0].weights["initial"].mean == first_of_one["eval/loss_live"]


def _worst(a: list[dict[str, float]], b: list[dict[str, float]], name: str) -> float:
    pairs = zip((row[name] for row in a if name in row), (row[name] for row in b if name in row), strict=True)
    return max(abs(left / right - 1) for left, right in pairs)


def _evaluate(lab: Lab, trajectory: str, step: int, *, ranks: int = 1, **settings: Any) -> EvalReport:
    config = train_config(lab.encoded, lab.folder / f"evaluate{ranks}", lab.model, **settings)
    out = lab.folder / f"report{ranks}"
    job = evaluate_job(lab.encoded, config, lab.model, CheckpointName(lab.key(trajectory), step), out)
    if ranks == 1:
        evaluate(job)
    else:
        lab.run(job, evaluate, ranks=ranks)
    assert (out / "eval_loss.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "losses.parquet").stat().st_size > 0
    return EvalReport.load(out / "report.json")


def test_bf16_evaluates_alike_in_the_loop_and_in_the_stage(lab: Lab) -> None:
    saved = lab.train("bf16", max_steps=2, eval_every=2, mixed_precision="bf16")
    report = _evaluate(lab, "bf16", 2, mixed_precision="bf16")
    row = lab.rows(saved)[-1]
    assert report.weights["live"].mean == row["eval/loss_live"]
    assert report.weights["ema"].mean == row["eval/loss_ema"]
    assert report.paired["live"].num_samples == 4
    weights = load_file(lab.path(saved.files["weights.safetensors"].key))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_each_set_of_weights_is_read_once_while_the_one_before_is_evaluated(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.train("saved", max_steps=2)
    read: list[str] = []
    started = {name: threading.Event() for name in ("live", "ema")}
    order: list[tuple[int, list[str]]] = []

    def load_weights(*args: Any, which: str) -> Any:
        read.append(which)
        started[which].set()
        return worker_load_weights(*args, which=which)

    def evaluate_model(*args: Any, **named: Any) -> Any:
        number = len(order)
        if number < 2:  # the next set is read meanwhile: it begins before this evaluation is over
            assert started[("live", "ema")[number]].wait(20)
        order.append((number, list(read)))
        return worker_evaluate_model(*args, **named)

    worker_load_weights, worker_evaluate_model = evaluate_worker.load_weights, evaluate_worker.evaluate_model
    monkeypatch.setattr(evaluate_worker, "load_weights", load_weights)
    monkeypatch.setattr(evaluate_worker, "evaluate_model", evaluate_model)
    report = _evaluate(lab, "saved", 2)
    assert order == [(0, ["live"]), (1, ["live", "ema"]), (2, ["live", "ema"])]
    assert len({report.weights[name].mean for name in ("initial", "live", "ema")}) == 3
