"""Where the two reports are made and kept: from a store on S3, by the command, as a file in MLflow."""

import dataclasses
import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from flows.cli.main import main
from sana.artifact import Recipe
from sana.config.load import load_config
from sana.context import Context
from sana.pipeline.observers import Committed, Observers, RunStart, StageEnd, StageStart, WorkStart
from sana.report.page import data_report
from sana.stages.train import trajectory_of
from sana.store import LocalStore, open_store
from tasks.report import PAGE, DataReport
from tasks.run_report import PAGE as RUN_PAGE
from tasks.run_report import RunReport
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import tracking_uri
from tests.made_trainings import MadeTraining, losses_around, rows_of
from tests.pipeline_runs import SMALLER, Outcome, Place
from tests.report_pages import run_with_hostile_names, states_of, thumbnails_of
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Outcome]:
    return run_with_hostile_names(tmp_path_factory.mktemp("report"))


def test_a_store_on_s3_gives_the_page_of_a_folder(done: tuple[Place, Outcome], s3: WeedServer) -> None:
    place, outcome = done
    there = place.context(f"root=s3://{s3.bucket}/report")
    for key, _ in place.context().store.list(""):
        assert there.store.put_if_absent(key, place.context().store.read(key))
    here, moved = (data_report(at, "demo", states_of(outcome), now=0.0) for at in (place.context(), there))
    assert moved.replace(there.store.root, place.context().store.root) == here


def command(place: Place, out: Path, *overrides: str) -> list[str]:
    sets = [f"root={place.root}", f"work_dir={place.folder / 'work'}", f"download.datasets.0.source={place.clips}",
            f"model.path={place.model}", *SMALLER, *overrides]  # fmt: skip
    return ["report", "configs/demo.yaml", "-o", str(out), *(part for text in sets for part in ("-s", text))]


def test_the_command_needs_storage_alone(
    done: tuple[Place, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(done[0].folder, done[0].model, done[0].root)
    # a limit that the run would have failed at hides nothing
    main(command(place, tmp_path / "one.html", "download.datasets.0.max_rejected_fraction=0", "probe.duplicates=keep"))
    assert "data report:" in capsys.readouterr().out
    one = (tmp_path / "one.html").read_text()
    assert "3 of 8 stages are committed" in one and len(thumbnails_of(one)) == done[1]["bucket"].counts.num_out
    place.clips.rename(place.folder / "away")
    try:
        main(command(place, tmp_path / "two.html", "probe.duplicates=keep"))
    finally:
        (place.folder / "away").rename(place.clips)
    two = (tmp_path / "two.html").read_text()
    assert "as it was when last listed" in two and "not shown" in two and not thumbnails_of(two)
    with pytest.raises(SystemExit):
        main(command(place, tmp_path / "three.html", f"root={tmp_path}/empty"))
    assert (
        f"nothing of configs/demo.yaml is committed under {tmp_path}/empty; first: sana run configs/demo.yaml "
        in capsys.readouterr().err
    )
    assert not (tmp_path / "three.html").exists() and not (tmp_path / "empty").exists()


def test_the_command_makes_the_report_of_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(Path(__file__).parents[2] / "configs/demo.yaml")
    made = MadeTraining(LocalStore(str(tmp_path / "root")))
    arguments = ["report", config, "--root", str(tmp_path / "root"), "-s", f"work_dir={tmp_path}/work"]
    with pytest.raises(SystemExit):
        main([*arguments, "--run"])
    assert "can have been trained" in capsys.readouterr().err
    made.prepare()
    made.write(0, 40, "aaaa", rows_of(0, 40))
    trained = made.finish()
    main([*arguments, "--run", trained.fingerprint[:8]])
    assert "run report: run_report.html" in capsys.readouterr().out
    assert "Not evaluated yet" in (tmp_path / "run_report.html").read_text()
    main([*arguments, "--run", made.trajectory, "-o", "other.html", "--json"])
    assert json.loads(capsys.readouterr().out)["page"] == "other.html" and (tmp_path / "other.html").exists()
    with pytest.raises(SystemExit):
        main([*arguments, "--run", "nothing"])
    assert f"has no training or run nothing; it has {trained.fingerprint}" in capsys.readouterr().err


def tracked(context: Context, title: str, outcome: Outcome, state: str, *, error: Exception | None = None) -> str:
    """Record a flow run as tasks do; returns the page on the pipeline's run."""
    tracker = Tracker(context.config, context.store, "key", {})
    watching = Observers([TrackingObserver(tracker), DataReport(tracker)])
    watching.on_run_start(RunStart(title, context))
    for name, artifact in outcome.artifacts.items():
        watching.on_event(StageStart(name))
        recipe = Recipe(name, artifact.version, artifact.config, artifact.inputs)
        watching.on_event(Committed(name, recipe, {}, artifact, state))
        watching.on_event(StageEnd(name, state if error is None or name != "bucket" else "failed", error))
    watching.on_run_end(error)
    return page_of(context, tracker)


def page_of(context: Context, tracker: Tracker) -> str:
    client = MlflowClient(tracking_uri=tracking_uri(context.config))
    return Path(client.download_artifacts(str(tracker.run_id), PAGE)).read_text()


def test_mlflow_keeps_the_page_and_a_cached_run_leaves_it(
    done: tuple[Place, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place, outcome = done
    context = Context(place.config(f"work_dir={tmp_path}/work"), open_store(place.root), tmp_path / "work")
    failed = tracked(context, "one", outcome, "completed", error=ValueError("a <limit>"))
    assert '<span class="bad">failed</span>' in failed and "a &lt;limit&gt;" in failed
    assert failed.count('<span class="ok">completed</span>') == 2
    assert "<h1>two</h1>" in tracked(context, "two", outcome, "completed")
    assert "<h1>two</h1>" in tracked(context, "three", outcome, "cached"), "all is cached: nothing is made"
    # a damaged store costs the page, not the run
    artifact = outcome["probe"]
    gone = {name: dataclasses.replace(file, key="probe/none") for name, file in artifact.files.items()}
    damaged = dataclasses.replace(artifact, files=gone)
    broken = Outcome({**outcome.artifacts, "probe": damaged}, [])
    assert "<h1>two</h1>" in tracked(context, "four", broken, "completed")


def watched(context: Context, made: MadeTraining, state: str, *, error: BaseException | None = None) -> Tracker:
    """Record a flow run that trained, as tasks do; with an error, one whose training failed."""
    tracker = Tracker(context.config, context.store, "key", {})
    watching = Observers([TrackingObserver(tracker), RunReport(tracker)])
    watching.on_run_start(RunStart("demo", context))
    for name, artifact in made.data.items():
        recipe = Recipe(name, artifact.version, artifact.config, artifact.inputs)
        watching.on_event(Committed(name, recipe, {}, artifact, "cached"))
    recipe = made.recipe()
    inputs = {"latents": made.data["encode_latents"], "texts": made.data["encode_captions"]}
    watching.on_event(StageStart("train"))
    if state != "cached":
        watching.on_event(WorkStart("train", recipe, inputs))
    if error is None:
        watching.on_event(Committed("train", recipe, inputs, made.finish(), state))
    watching.on_event(StageEnd("train", state, error))
    watching.on_run_end(error)
    return tracker


def test_mlflow_keeps_the_run_report_on_both_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config("configs/demo.yaml", [f"root={tmp_path}/root", f"work_dir={tmp_path}/work"])
    context = Context(config, open_store(str(tmp_path / "root")), tmp_path / "work")
    client = MlflowClient(tracking_uri=tracking_uri(config))
    made = MadeTraining(context.store)
    made.trajectory = trajectory_of(made.recipe())
    made.prepare()
    made.write(0, 20, "aaaa", rows_of(0, 20))

    def pages(tracker: Tracker) -> list[str]:
        inputs = {"latents": made.data["encode_latents"], "texts": made.data["encode_captions"]}
        runs = [tracker.run_id, tracker.stage(made.recipe(), inputs).run_id()]
        return [Path(client.download_artifacts(str(run), RUN_PAGE)).read_text() for run in runs]

    of_pipeline, of_training = pages(watched(context, made, "failed", error=ValueError("no <memory>")))
    assert (
        of_pipeline == of_training and "Failed at step 20 of 120" in of_pipeline and "no &lt;memory&gt;" in of_pipeline
    )
    made.write(21, 40, "bbbb", rows_of(21, 40))
    done, _ = pages(watched(context, made, "completed"))
    assert "Not evaluated yet" in done and "bbbb" in done
    made.evaluate({name: losses_around(1.0, 0.1) for name in ("initial", "live", "ema")}, step=40)
    cached, _ = pages(watched(context, made, "cached"))
    assert cached == done, "all is cached: nothing is made"


def test_a_cancelled_run_and_one_that_trained_nothing_have_no_run_report(tmp_path: Path) -> None:
    config = load_config("configs/demo.yaml", [f"root={tmp_path}/root", f"work_dir={tmp_path}/work"])
    context = Context(config, open_store(str(tmp_path / "root")), tmp_path / "work")
    made = MadeTraining(context.store)
    made.prepare()
    tracker = watched(context, made, "stopped", error=KeyboardInterrupt())  # of a cancel little time is left
    prepared = Observers([RunReport(tracker)])
    prepared.on_run_start(RunStart("demo", context))
    prepared.on_event(StageStart("download"))
    prepared.on_run_end(None)
    client = MlflowClient(tracking_uri=tracking_uri(config))
    assert RUN_PAGE not in [file.path for file in client.list_artifacts(str(tracker.run_id))]
