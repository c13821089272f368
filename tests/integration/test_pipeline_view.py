"""The pipeline's own run in MLflow: a name, results, curves to the last step, data sets, and each attempt's end."""

import html
import re
import shutil
import socket
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from click.testing import CliRunner
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows.cli.main import cli
from sana.artifact import Artifact, Draft, Recipe
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.data.video.larger_copy import write_larger
from sana.data.video.video import opened, write_mp4
from sana.errors import SanaError
from sana.facts import EncodeLatentsFacts, TrainFacts
from sana.pipeline.observers import COMPLETED, Committed, RunStart, StageEnd, StageStart, WorkStart
from sana.runs.records import RunStarted, RunStatus, start_key, status_key
from sana.runtime.process_id import ProcessId, this_host, this_process
from sana.store import Store, open_store
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.pipeline_view import COUNTS
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, tracking_uri
from tests.shown_runs import LOSSES

ROWS = [{"step": step, "train/loss": 1.0 / step, "eval/loss_ema": 2.0 / step, "x/y": 1.0} for step in range(1, 31)]
FACTS = {
    "encode_latents": EncodeLatentsFacts(10, {"demo": 7}),
    "train": TrainFacts("t1", 60, "train/t1/checkpoints/step_00000060/index.json", (), "train/t1/model"),
    "evaluate": LOSSES,
}


@pytest.fixture
def config(tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    shutil.copy(tracking_database, tmp_path / "work")
    return config_in(tmp_path)


def config_in(folder: Path, *overrides: str) -> Config:
    return load_config("configs/demo.yaml", [f"root={folder}/store", f"work_dir={folder}/work", *overrides])


def commit(config: Config, stage: str, counts: Counts) -> Artifact:
    draft = Draft(open_store(config.root), Recipe(stage, 1, {}, {}))
    return draft.commit(content={"rows": "d2"}, counts=counts, facts=FACTS.get(stage))


def watched(config: Config, *, title: str = "<b>demo", error: Exception | None = None, data: str = "") -> MlflowClient:
    """Tell an observer of a run in which training works and the other stages are cached."""
    store = open_store(config.root)
    tracker = Tracker(config, store, pipeline_key(config), {"host": "gpu-1"})
    observer = TrackingObserver(tracker)
    observer.on_run_start(RunStart(title, Context(config, store, Path(config.work_dir))))
    for stage, num_in, rejected in (("download", 16, 1), ("probe", 15, 2), ("encode_latents", 13, 0)):
        reasons = {"truncated": rejected} if rejected else {}
        found = commit(config, stage, Counts(num_in, num_in - rejected, rejected, reasons, {}, None, {}))
        observer.on_event(Committed(stage, Recipe(stage, 1, {}, {}), {}, found, COMPLETED))
    recipe = Recipe("train", 1, {}, {"latents": data} if data else {})
    observer.on_event(StageStart("train"))
    observer.on_event(WorkStart("train", recipe, {}))
    observer.on_metrics("train", ROWS)
    if error is None:
        counts = Counts(7, 7, 0, {}, {}, None, {})
        observer.on_event(Committed("train", recipe, {}, commit(config, "train", counts), COMPLETED))
    observer.on_event(StageEnd("train", "failed" if error else COMPLETED, error))
    if error is None:
        found = commit(config, "evaluate", Counts(5, 5, 0, {}, {}, None, {}))
        observer.on_event(Committed("evaluate", Recipe("evaluate", 1, {}, {}), {}, found, COMPLETED))
    observer.on_run_end(error)
    return MlflowClient(tracking_uri(config))


def curve_of(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def test_the_pipelines_run_says_what_came_of_it(config: Config) -> None:
    client = watched(config)
    [experiment] = [client.get_experiment_by_name(config.tracking.experiment)]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if run.data.tags["sana.stage"] == "pipeline"]
    [train] = [run for run in runs if run.data.tags["sana.stage"] == "train"]
    assert re.fullmatch(r"<b>demo full demo 20\d\d-\d\d-\d\d \d\d:\d\d", parent.info.run_name), "two of a day differ"
    assert train.info.run_name.endswith(" <b>demo")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    found = parent.data.metrics
    assert (found["result/clips_in"], found["result/clips_rejected"], found["result/steps"]) == (16, 3, 60)
    assert (found["eval/loss_live"], found["eval/loss_ema"]) == (0.7, 0.6)
    assert found["result/relative_drop_ema"] == 0.5 and "x/y" not in found, "only the curves that runs are compared by"
    curves = {name: curve_of(client, parent, name) for name in found}
    assert {name for name, curve in curves.items() if len(curve) == 1} == COUNTS, "all others are no bars"
    assert curves["result/relative_drop_ema"] == [(0, 0.0), (60, 0.5)]
    assert curves["eval/loss_ema"][0] == (0, 1.5), "the loss before training"
    for run, first in ((parent, 0), (train, 1)):
        steps = [step for step, _ in curve_of(client, run, "eval/loss_ema")]
        assert steps == [*range(first, 31), 60], "to the step that was evaluated"
    [read] = parent.inputs.dataset_inputs
    assert (read.dataset.name, 'train_samples": 7' in read.dataset.profile) == ("demo", True)
    assert "mlflow_colspec" in read.dataset.schema
    assert len(parent.outputs.model_outputs) == len(train.outputs.model_outputs) == 1
    model = client.get_logged_model(train.outputs.model_outputs[0].model_id)
    assert {metric.key: metric.value for metric in model.metrics or ()} == {"eval/loss_live": 0.7, "eval/loss_ema": 0.6}
    assert model.params == train.data.params
    note = parent.data.tags["mlflow.note.content"]
    assert "**0.6000** at step 60: surely lower (-0.8000" in note
    assert f"(#/experiments/{experiment.experiment_id}/runs/{train.info.run_id}?workflowType=machine_learning)" in note
    assert "| train.learning&#95;rate | 0.003 |" in note and "| download.datasets.0.id | demo |" in note
    unnamed, elsewhere = "train.optimizer.beta1", "work&#95;dir"
    assert unnamed not in note and elsewhere not in note and ".resources" not in note, "only what the config chose"


KINDS = {"": True, "no_inferred_type": True, "genai_development_inferred": True, "genai_development": False}


@pytest.mark.parametrize("before", KINDS)
def test_an_experiment_that_was_there_opens_with_its_runs_unless_somebody_chose(config: Config, before: str) -> None:
    client = MlflowClient(tracking_uri(config))
    tags = {"mlflow.experimentKind": before} if before else {}
    number = client.create_experiment(config.tracking.experiment, (Path(config.work_dir) / "a").as_uri(), tags=tags)
    tracker = Tracker(config, open_store(config.root), pipeline_key(config), {})
    assert tracker.try_to(lambda _: True)
    found = client.get_experiment(number).tags["mlflow.experimentKind"]
    assert found == ("custom_model_development" if KINDS[before] else before)


def test_each_attempt_is_told_with_its_end(config: Config) -> None:
    watched(config, error=SanaError("disk | <b>full"))
    client = watched(config)
    [parent] = client.search_runs(
        [client.get_experiment_by_name(config.tracking.experiment).experiment_id], "tags.`sana.stage` = 'pipeline'"
    )
    told = {name: said for name, said in parent.data.tags.items() if name.startswith("sana.attempt.")}
    assert list(told) == ["sana.attempt.0001", "sana.attempt.0002"]
    assert "failed after" in told["sana.attempt.0001"] and told["sana.attempt.0001"].endswith(": disk | <b>full")
    assert "completed after" in told["sana.attempt.0002"] and " on gpu-1: " in told["sana.attempt.0002"]
    assert parent.info.status == "FINISHED" and "sana.error" not in parent.data.tags
    note = parent.data.tags["mlflow.note.content"]
    assert "<b>" not in note and "disk &#124; &#60;b&#62;full" in note and "\\" not in note, "MLflow shows backslashes"


def test_a_killed_attempt_is_told_by_the_next(config: Config) -> None:
    store = open_store(config.root)
    observer = TrackingObserver(Tracker(config, store, pipeline_key(config), {}))
    observer.on_run_start(RunStart("demo", Context(config, store, Path(config.work_dir))))  # and is no more
    client = watched(config)
    [parent] = client.search_runs(
        [client.get_experiment_by_name(config.tracking.experiment).experiment_id], "tags.`sana.stage` = 'pipeline'"
    )
    assert parent.data.tags["sana.attempt.0001"].endswith("ended without a word")


def parents_of(config: Config) -> list[Run]:
    client = MlflowClient(tracking_uri(config))
    experiment = client.get_experiment_by_name(config.tracking.experiment).experiment_id
    return client.search_runs([experiment], "tags.`sana.stage` = 'pipeline'", order_by=["attributes.start_time"])


def test_data_that_changes_has_curves_of_its_own(config: Config) -> None:
    client = watched(config, data="a")
    [first] = parents_of(config)
    watched(config, data="a")
    assert len(parents_of(config)) == 1, "the same training continues its curves"
    watched(config, data="b")
    before, after = parents_of(config)
    assert before.info.run_id == first.info.run_id and before.info.status == after.info.status == "FINISHED"
    for run in (before, after):
        assert [step for step, _ in curve_of(client, run, "train/loss")] == list(range(1, 31))
        assert len(run.inputs.dataset_inputs) == len(run.outputs.model_outputs) == 1
    notes = [run.data.tags["mlflow.note.content"] for run in (before, after)]
    assert notes[0].startswith("The data has changed since: [") and after.info.run_id in notes[0]
    assert "**0.6000** at step 60" in notes[0] and before.info.run_id in notes[1]
    assert [sum(name.startswith("sana.attempt") for name in run.data.tags) for run in (before, after)] == [2, 1]
    assert before.data.tags["sana.run.train"] != after.data.tags["sana.run.train"]
    assert before.info.end_time < after.info.start_time, "it ended when its own last attempt did"

    watched(config, data="a")  # the data is again what it was
    again, left = parents_of(config)
    assert [again.info.run_id, left.info.run_id] == [before.info.run_id, after.info.run_id]
    notes = [run.data.tags["mlflow.note.content"] for run in (again, left)]
    assert notes[1].startswith("The data has changed since: [") and not notes[0].startswith("The data has changed")
    assert sum(name.startswith("sana.attempt") for name in again.data.tags) == 3


def recorded(store: Store, run_id: str, *, heard_s_ago: float, process: ProcessId) -> None:
    at = time.time() - heard_s_ago
    started = RunStarted(run_id, "demo", "key", "", "gpu-1", process, at, "0.2.0")
    store.put_if_absent(start_key(run_id), started.to_json())
    store.put_if_absent(status_key(run_id, 1), RunStatus(run_id, at, {}).to_json())


GONE, HERE = ProcessId(this_host(), 2**22 + 1), this_process()  # no process has a number beyond pid_max
ELSEWHERE = ProcessId("another machine", HERE.pid)
DEAD = {  # process, seconds since its record was heard of (None: it has none), what is said
    "its process is gone": (GONE, None, "its process 4194305 is gone"),
    "it is at work": (HERE, None, ""),
    "at work, storage was away": (ELSEWHERE, 600.0, ""),
    "on another machine": (ELSEWHERE, None, ""),
    "on another machine, long silent": (ELSEWHERE, 7300.0, "nothing was heard of it for 2 h"),
}


@pytest.mark.parametrize("case", DEAD)
def test_a_run_whose_process_is_gone_is_ended_by_whoever_comes_next(config: Config, case: str) -> None:
    process, heard_s_ago, says = DEAD[case]
    store = open_store(config.root)
    facts = {"sana.run_record": "r1"} if heard_s_ago is not None else {}
    tracker = Tracker(config, store, "another config", facts)
    tracker.facts |= {"sana.process.host": process.host, "sana.process.pid": str(process.pid)}
    TrackingObserver(tracker).on_run_start(RunStart("killed", Context(config, store, Path(config.work_dir))))
    if heard_s_ago is not None:
        recorded(store, "r1", heard_s_ago=heard_s_ago, process=process)
    watched(config)  # of another config
    [killed, _] = parents_of(config)
    assert killed.info.status == ("KILLED" if says else "RUNNING")
    assert killed.data.tags.get("sana.error") == (f"killed: {says}" if says else None)
    for text in (killed.data.tags["sana.attempt.0001"], killed.data.tags["mlflow.note.content"]):
        assert (f"was killed: {says}" if says else "is running") in html.unescape(text)
    if heard_s_ago and says:
        assert killed.info.end_time / 1000 == pytest.approx(time.time() - heard_s_ago, abs=60.0)


def test_sana_ui_ends_a_run_whose_process_is_gone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(config, open_store(config.root), "killed", {})
    tracker.facts |= {"sana.process.host": GONE.host, "sana.process.pid": str(GONE.pid)}
    TrackingObserver(tracker).on_run_start(RunStart("killed", Context(config, tracker.store, Path(config.work_dir))))
    monkeypatch.setattr("flows.environment.prepare_environment", lambda work_dir: None)  # it sets variables for good
    server = MagicMock(url="http://127.0.0.1:1")
    server.__enter__.return_value = server
    monkeypatch.setattr("flows.mlflow_server.MlflowServer", lambda *_: server)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--root", config.root, "-s", f"work_dir={config.work_dir}", "--port", str(port)]
    shown = CliRunner().invoke(cli, ["ui", "configs/demo.yaml", *options])
    assert shown.exit_code == 0, shown.output
    assert [run.info.status for run in parents_of(config)] == ["KILLED"]


def test_system_metrics_are_read_while_a_stage_works(config: Config) -> None:
    quick = config.model_copy(update={"tracking": replace_tracking(config, system_metrics_every=0.05)})
    tracker = Tracker(quick, open_store(quick.root), pipeline_key(quick), {})
    with tracker, tracker.stage(Recipe("train", 1, {}, {}), {}):
        time.sleep(0.4)
    client = MlflowClient(tracking_uri(quick))
    [experiment] = [client.get_experiment_by_name(quick.tracking.experiment)]
    [train] = client.search_runs([experiment.experiment_id], "tags.`sana.stage` = 'train'")
    assert train.data.metrics["system/system_memory_usage_megabytes"] > 10
    assert 0 <= train.data.metrics["system/cpu_utilization_percentage"] <= 100


def replace_tracking(config: Config, **changes: object) -> object:
    return config.tracking.model_copy(update=changes)


NAMES = {
    "{config} {nobody}": "nothing fills in {nobody}",
    "{config": "is no template",
    "{config!r}": "nothing fills in {config}",
    "{}": "nothing fills in {}",
    "a\nb": "has no letters, or some that nobody sees",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_name_that_nothing_can_fill_in_is_found_at_load(name: str) -> None:
    from sana.config.delivery.tracking import TrackingConfig

    with pytest.raises(ValueError, match=NAMES[name].replace("{", r"\{").replace("}", r"\}")):
        TrackingConfig(run_name=name)


def test_tracking_moves_no_key(tmp_path: Path) -> None:
    plain = config_in(tmp_path)
    named = config_in(tmp_path, "tracking.run_name='{key} mine'", "tracking.system_metrics_every=0")
    assert pipeline_key(plain) == pipeline_key(named)


def test_a_small_video_has_a_copy_that_is_large_enough_to_see(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 96, 160, 3), dtype=np.uint8)
    write_mp4(tmp_path / "small.mp4", frames, fps=16)
    assert write_larger(tmp_path / "small.mp4", tmp_path / "large.mp4")
    with opened(tmp_path / "large.mp4") as (_, stream):
        assert (stream.codec_context.height, stream.codec_context.width, stream.frames) == (480, 800, 5)
        assert float(stream.average_rate) == 16
    assert not write_larger(tmp_path / "large.mp4", tmp_path / "larger.mp4"), "it is large enough"
