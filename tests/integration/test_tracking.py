"""What MLflow shows, against a real sqlite store: one run per artifact, each step once, no secrets, and no waiting."""

import json
import math
import shutil
import socket
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sana.artifact import Artifact, Draft, Recipe
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.counts import Counts
from sana.facts import TrainFacts
from sana.metrics import EVAL_SIGMA_LOSS
from sana.store import open_store
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, tracking_uri

ROWS = [{"step": step, "train/loss": 1.0 / step, "train/grad_norm": 2.0} for step in range(1, 41)]


def config_in(folder: Path, *overrides: str) -> Config:
    return load_config("configs/demo.yaml", [f"root={folder}/store", f"work_dir={folder}/work", *overrides])


def recipe_of(stage: str = "train", **config: object) -> Recipe:
    return Recipe(stage, 1, {"learning_rate": 1e-3, "prompts": {"<cat>": "a cat"}, **config}, {"latents": "d1"})


def commit(config: Config, recipe: Recipe, rows: list[dict] | None = None) -> Artifact:
    draft = Draft(open_store(config.root), recipe)
    draft.add("report.json", b'{"mean": 1}')
    draft.add("plots/loss.png", b"\x89PNG")
    draft.refer("weights.safetensors", "train/x/weights.safetensors", num_bytes=10**9, digest="abc")
    facts = TrainFacts("t1", 40, "train/t1/checkpoints/step_00000040/index.json", (), "model")
    if rows is not None:
        key = f"train/t1/metrics/{len(rows)}-{time.time_ns()}.jsonl"
        draft.store.put_if_absent(key, "".join(json.dumps(row) + "\n" for row in rows).encode())
        facts = replace(facts, metrics=(key,))
    counts = Counts(10, 9, 1, {"too_short": 1}, {}, num_samples=None, extra={})
    return draft.commit(content={"rows": "d2"}, counts=counts, facts=facts if recipe.stage == "train" else None)


def tracker_of(config: Config, **facts: str) -> Tracker:
    return Tracker(config, open_store(config.root), pipeline_key(config), facts)


def client_of(config: Config) -> MlflowClient:
    return MlflowClient(tracking_uri(config))


def runs_of(config: Config) -> list[Run]:
    client = client_of(config)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    return client.search_runs([experiment.experiment_id])


def run_named(config: Config, tag: str, value: str | None = None) -> Run:
    found = [r for r in runs_of(config) if tag in r.data.tags and value in (None, r.data.tags[tag])]
    assert len(found) == 1, [run.data.tags for run in found]
    return found[0]


def steps_of(config: Config, name: str = "train/loss") -> list[int]:
    run = run_named(config, "sana.stage", "train")
    return sorted(point.step for point in client_of(config).get_metric_history(run.info.run_id, name))


def paths_of(config: Config, run: Run, folder: str = "") -> set[str]:
    found: set[str] = set()
    for file in client_of(config).list_artifacts(run.info.run_id, folder or None):
        found |= paths_of(config, run, file.path) if file.is_dir else {file.path}
    return found


@pytest.fixture
def config(tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    shutil.copy(tracking_database, tmp_path / "work")
    return config_in(tmp_path)


def train_once(config: Config, rows: list[dict], *, artifact_rows: list[dict] | None = None) -> Artifact:
    """A stage as the task runs it: rows are reported as they come, then the artifact is committed."""
    recipe = recipe_of()
    with tracker_of(config) as tracker, tracker.stage(recipe, {}) as run:
        run.log_metrics(rows)
        artifact = commit(config, recipe, artifact_rows)
        run.finished(artifact, "Completed")
    return artifact


def test_a_stage_is_one_run_below_its_pipeline_with_all_that_is_known(config: Config) -> None:
    upstream = commit(config, recipe_of("encode_latents"))
    recipe = recipe_of()
    with tracker_of(config, host="gpu-1") as tracker, tracker.stage(recipe, {"encode_latents": upstream}) as run:
        run.log_metrics(ROWS)
        artifact = commit(config, recipe)
        run.finished(artifact, "Completed")
    parent, child = run_named(config, "sana.stage", "pipeline"), run_named(config, "sana.stage", "train")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.params == {"learning_rate": "0.001", "prompts._cat_": "a cat"}
    assert parent.data.params["train.max_steps"] == "120"
    assert set(child.data.metrics) == {"train/loss", "train/grad_norm"}, "curves only"
    assert "| clips_rejected.too_short | 1 |" in child.data.tags["mlflow.note.content"]
    [model] = client_of(config).search_logged_models([child.info.experiment_id])
    assert model.source_run_id == child.info.run_id and model.tags["sana.fingerprint"] == artifact.fingerprint
    assert [output.model_id for output in child.outputs.model_outputs] == [model.model_id]
    assert model.params == child.data.params
    assert steps_of(config) == list(range(1, 41))
    expected = {"artifact.json", "files.json", "report.json", "plots/loss.png"}
    assert paths_of(config, child) == expected, "weights are linked, not copied"
    assert paths_of(config, parent) == {"config/resolved.yaml", "lineage.json"}
    assert child.data.tags["host"] == "gpu-1" and child.data.tags["sana.uri"].endswith(artifact.key)
    assert [data.dataset.digest for data in child.inputs.dataset_inputs] == [upstream.fingerprint]
    resources = config.train.resources.model_dump()
    told = {name.removeprefix("sana.resources."): value for name, value in child.data.tags.items()}
    assert all(told[name] == str(resources[name]) for name in ("compile", "activation_memory", "micro_batch_size"))
    assert {name.partition(".")[0] for name in told} >= set(resources), "each setting that is not hashed"
    assert "" not in {*parent.data.tags.values(), *child.data.tags.values()}, "what is not known has no tag"


def test_a_rerun_continues_the_same_runs_and_logs_nothing_twice(config: Config) -> None:
    train_once(config, ROWS)
    before = run_named(config, "sana.stage", "train")
    (Path(config.work_dir) / "mlflow-runs.json").unlink()  # another machine has no pointers
    artifact = commit(config, recipe_of())
    with tracker_of(config) as tracker:
        tracker.stage(recipe_of(), {}).finished(artifact, "Cached")
    assert len(runs_of(config)) == 2
    after = run_named(config, "sana.stage", "train")
    assert after.info.run_id == before.info.run_id and after.data.tags == before.data.tags
    lineage = client_of(config).download_artifacts(run_named(config, "sana.run.train").info.run_id, "lineage.json")
    assert json.loads(Path(lineage).read_text())["train"]["state"] == "Cached"


def test_a_cached_stage_of_another_pipeline_is_linked_to_it(config: Config, tmp_path: Path) -> None:
    artifact = train_once(config, ROWS)
    other = config_in(tmp_path, "evaluate.num_sigmas=4")
    with tracker_of(other) as tracker:
        tracker.stage(recipe_of(), {}).finished(artifact, "Cached")
    assert len(runs_of(config)) == 3
    child = run_named(config, "sana.stage", "train")
    parents = [run for run in runs_of(config) if run.data.tags.get("sana.run.train") == child.info.run_id]
    assert len(parents) == 2


class Killed(BaseException):
    """As Prefect's TerminationSignal is, no Exception."""


def test_a_killed_run_goes_on_with_each_step_once(config: Config) -> None:
    with pytest.raises(Killed), tracker_of(config) as tracker, tracker.stage(recipe_of(), {}) as run:
        run.log_metrics(ROWS[:23])
        raise Killed
    killed = run_named(config, "sana.stage", "train")
    assert killed.info.status == "KILLED" and steps_of(config) == list(range(1, 24))
    train_once(config, ROWS[20:], artifact_rows=ROWS)  # from the checkpoint at step 20
    assert steps_of(config) == list(range(1, 41))
    assert run_named(config, "sana.stage", "train").data.tags["sana.attempt"] == "2"


def test_a_failure_is_said_and_a_later_success_counts(config: Config) -> None:
    with pytest.raises(ValueError), tracker_of(config) as tracker, tracker.stage(recipe_of(), {}):
        raise ValueError("no such codec")
    failed = run_named(config, "sana.stage", "train")
    assert (failed.info.status, failed.data.tags["sana.error"]) == ("FAILED", "no such codec")
    train_once(config, ROWS)
    mended = run_named(config, "sana.stage", "train")
    assert mended.info.status == "FINISHED" and "sana.error" not in mended.data.tags


def test_numbers_that_are_none_or_nan_do_no_harm(config: Config) -> None:
    by_sigma = {EVAL_SIGMA_LOSS.format("ema", 0.0625): 0.3}
    rows = [
        {"step": 1, "eval/loss": None, "train/loss": math.nan},
        {"step": 2, "eval/loss": 0.5, "train/loss": 0.1, **by_sigma},
    ]
    train_once(config, rows)
    assert steps_of(config, "eval/loss") == [2] and steps_of(config) == [1, 2]
    shown = set(run_named(config, "sana.stage", "train").data.metrics)
    assert not [name for name in shown if name.startswith("eval_by_sigma")], "a chart of each noise level"


def test_secrets_are_nowhere(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-canary", "HF_TOKEN": "hf_canary123"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    train_once(config, ROWS)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in written)
    for path in written:
        data = path.read_bytes()
        assert not any(value.encode() in data for value in secrets.values()), path


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_tracker_that_is_down_delays_nothing_and_loses_nothing(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = config_in(tmp_path)
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://user:canary@127.0.0.1:{closed_port()}")
        artifact = train_once(down, ROWS, artifact_rows=ROWS)
    assert time.monotonic() - started < 5.0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "canary" not in warnings[0]
    # later, with a tracker that works, the stage is cached
    with tracker_of(config) as tracker:
        tracker.stage(recipe_of(), {}).finished(artifact, "Cached")
    assert steps_of(config) == list(range(1, 41))
    child = run_named(config, "sana.stage", "train")
    assert child.info.status == "FINISHED" and "artifact.json" in paths_of(config, child)


def test_a_tracker_that_breaks_while_training_loses_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    recipe = recipe_of()
    with tracker_of(config) as tracker, tracker.stage(recipe, {}) as run, monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", broken)
        run.log_metrics(ROWS[:20])
        artifact = commit(config, recipe, ROWS)
        run.finished(artifact, "Completed")
    assert steps_of(config) == [] and artifact.key
    with tracker_of(config) as tracker:
        tracker.stage(recipe, {}).finished(artifact, "Cached")
    assert steps_of(config) == list(range(1, 41))


def test_the_embedded_store_does_not_depend_on_the_current_folder(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    tracker = tracker_of(config)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with tracker:
        pass
    assert not list((tmp_path / "elsewhere").iterdir())
    with sqlite3.connect(tmp_path / "work" / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)
