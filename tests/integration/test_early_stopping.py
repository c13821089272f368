"""A run that ends early, the best checkpoint, and losses of data sets that are measured by themselves."""

from pathlib import Path
from typing import Any

import pytest

from sana.config.load import load_config
from sana.errors import ConfigError
from sana.runtime.launcher import result_path
from sana.runtime.results import EvalReport, TrainResult
from sana.runtime.specs import CheckpointName
from sana.training.checkpoints.checkpoint_io import load_weights, weights_digest
from sana.workers import train as trainer
from sana.workers.evaluate import evaluate
from tests.pipeline_runs import ROOT
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded, evaluate_job, train_config

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("own_sigterm")]
# steps so large that the EMA weights get worse from some step on
OVER: dict[str, Any] = {
    "max_steps": 16, "learning_rate": 0.2, "early_stopping": {"every": 2, "patience": 2, "stderrs": 0.0},
    "checkpoint_every": 3, "max_checkpoints": 1, "ema_decay": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("early")
    return Lab(build_encoded(folder / "store", num_train=2, num_eval=4), folder, tiny_model)


def result(lab: Lab, trajectory: str, **settings: Any) -> TrainResult:
    trainer.train(lab.job(trajectory, **settings))
    return TrainResult.load(result_path(lab.last_job))


def judged(lab: Lab, found: TrainResult) -> dict[int, float]:
    """Return the eval loss of the EMA weights at each step that was judged."""
    newest = max(int(segment.rpartition("/")[2].split("-")[1]) for segment in found.metrics)
    rows = lab.rows(lab.at(found.trajectory.removeprefix(f"{lab.folder.name}-"), newest))
    return {int(row["step"]): row["eval/loss_ema"] for row in rows if "eval/best_step" in row}


def test_a_run_ends_once_it_is_past_its_best_and_exports_that(lab: Lab, pair: RankPair) -> None:
    whole = result(lab, "whole", **OVER)
    losses = judged(lab, whole)
    last = max(losses)
    assert last < OVER["max_steps"] and whole.step == min(losses, key=lambda step: losses[step]) < last
    best = load_weights(lab.store, whole.trajectory, whole.step, which="ema")
    assert whole.weights.ema == weights_digest(best)
    # stopped in between, and resumed: the same end
    result(lab, "parts", **{**OVER, "max_steps": 3})
    parts = result(lab, "parts", **OVER)
    assert (parts.step, parts.weights, judged(lab, parts)) == (whole.step, whole.weights, losses)
    # once it is over, more steps change nothing
    assert result(lab, "parts", **{**OVER, "max_steps": 20}).weights == whole.weights
    job = lab.job("two", **OVER, num_processes=2)
    pair.run(trainer.train, job)
    assert TrainResult.load(result_path(job.path)).step == whole.step
    kept = result(lab, "last", **{**OVER, "early_stopping": {**OVER["early_stopping"], "export": "last"}})
    assert kept.step == last and judged(lab, kept) == losses


def test_a_data_set_is_measured_by_itself(tmp_path: Path, tiny_model: Path) -> None:
    encoded = build_encoded(tmp_path / "store", num_train=4, num_eval=6, datasets=("own", "generic"))
    lab = Lab(encoded, tmp_path, tiny_model)
    config = train_config(encoded, tmp_path / "work", tiny_model, max_steps=2)
    (first,) = config.download.datasets
    datasets = (first, first.model_copy(update={"id": "generic", "role": "eval"}))
    config = config.model_copy(update={"download": config.download.model_copy(update={"datasets": datasets})})
    evaluation = config.evaluate.model_copy(update={"separate_datasets": ("generic",)})

    def report(name: str, **update: Any) -> EvalReport:
        changed = config.model_copy(update=update)
        evaluate(evaluate_job(encoded, changed, tiny_model, CheckpointName(lab.key("t"), 2), tmp_path / name))
        return EvalReport.from_json((tmp_path / name / EvalReport.FILE).read_bytes(), where=name)

    lab.train("t", max_steps=2)
    together, apart = report("together"), report("apart", evaluate=evaluation)
    assert together.num_samples == 6 and not together.datasets
    assert apart.num_samples == 3 and apart.datasets["generic"].num_samples == 3
    for weights in ("initial", "live", "ema"):
        halves = apart.weights[weights].mean, apart.datasets["generic"].weights[weights].mean
        assert sum(halves) / 2 == pytest.approx(together.weights[weights].mean, rel=1e-12)
    assert set(apart.datasets["generic"].paired) == {"live", "ema"}


def test_the_loop_measures_train_samples_and_data_sets(tmp_path: Path, tiny_model: Path) -> None:
    encoded = build_encoded(tmp_path / "store", num_train=4, num_eval=4)
    lab = Lab(encoded, tmp_path, tiny_model)
    rows = lab.rows(lab.train("with", max_steps=2, eval_every=2, train_probe_samples=2))
    without = lab.rows(lab.train("without", max_steps=2, eval_every=2, train_probe_samples=0))
    assert [row["step"] for row in rows if "eval/train_probe_loss_ema" in row] == [0, 2]
    assert [{k: v for k, v in row.items() if "probe" not in k} for row in rows] == without


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.separate_datasets=[generic]", "generic is no data set in use"),
        ("evaluate.separate_datasets=[demo]", "demo has role: split; what is measured by itself needs role: eval"),
    ],
)
def test_separate_data_sets_are_of_the_config(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / "configs/demo.yaml", [override])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping": {"patience": 0}}, "patience"),
        ({"early_stopping": {"export": "newest"}}, "export"),
    ],
)
def test_mistakes_are_found_at_load(lab: Lab, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"train.early_stopping.{message}"):
        train_config(lab.encoded, tmp_path, lab.model, **settings)
