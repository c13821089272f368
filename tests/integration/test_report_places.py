"""Where the data report is made and kept: from a store on S3, by the command, as a file in MLflow."""

import dataclasses
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from flows.cli.main import main
from sana.artifact import Recipe
from sana.context import Context
from sana.pipeline.observers import Committed, Observers, RunStart, StageEnd, StageStart
from sana.report.page import data_report
from sana.store import open_store
from tasks.report import PAGE, DataReport
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import tracking_uri
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
