"""Validations in MLflow while training, and the same videos from a checkpoint, on any machine."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from PIL import Image

from flows.cli.main import main
from sana.facts import TrainFacts
from sana.model.sampling.linear_preview import LinearPreview
from sana.pipeline.graph import until
from sana.pipeline.run import Run, run_stages
from sana.progress import Progress
from sana.runtime.launcher import progress_path
from sana.training.validation import record as kept
from tasks.tracking.observer import TrackingObserver
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, tracking_uri
from tests.maintained_stores import context_of
from tests.pipeline_runs import SMALLER, Place, inline_workers

pytestmark = pytest.mark.timeout(200)

VALIDATION = (
    "train.max_steps=4", "train.validation.every=2", "train.validation.weights=both", "train.validation.seeds=[3]",
    "sample.num_inference_steps=2", "sample.bucket=5x64x96", "train.validation.preview_every=1",
    "train.mixed_precision=bf16",
)  # fmt: skip


def options(place: Place, *more: str) -> list[str]:
    values = [
        f"work_dir={place.folder}/work", f"model.path={place.model}", f"download.datasets.0.source={place.clips}",
        *SMALLER, *more,
    ]  # fmt: skip
    return ["--root", place.root, *(x for value in values for x in ("-s", value))]


@pytest.fixture
def own(place: Place, tmp_path: Path, tracking_database: Path) -> Place:
    """A place with a work_dir, and so an MLflow, of its own."""
    (tmp_path / "own" / "work").mkdir(parents=True)
    shutil.copy(tracking_database, tmp_path / "own" / "work")
    (tmp_path / "own" / "clips").symlink_to(place.clips)
    return Place(tmp_path / "own", place.model, place.root)


def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what inline workers report reach the observers, as the launcher would pass it on."""
    import sana.runtime.worker as worker

    inline = worker.launch

    def launch(module: str, job_path: Path, **named: Any) -> None:
        inline(module, job_path, **named)
        for line in progress_path(job_path).read_text().splitlines():
            named["report"](Progress.from_line(line, where="test"))

    monkeypatch.setattr(worker, "launch", launch)


def paths_of(client: MlflowClient, run: MlflowRun, folder: str) -> list[str]:
    return sorted(file.path for file in client.list_artifacts(run.info.run_id, folder))


def test_mlflow_has_sheets_by_step_and_a_checkpoint_gives_the_same_videos(
    own: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(own, *VALIDATION)
    tracker = Tracker(context.config, context.store, pipeline_key(context.config), {})
    with inline_workers():
        told(monkeypatch)
        with Run(context, observers=[TrackingObserver(tracker)]) as run:
            trained = run_stages(run, until(context.config, "train"))[-1].artifact
    trajectory = TrainFacts.of(trained).trajectory
    in_loop = list(kept.records(context.store, trajectory))
    assert [record.step for record in in_loop] == [2, 4] and not any(record.failed for record in in_loop)

    client = MlflowClient(tracking_uri(context.config))
    [experiment] = [client.get_experiment_by_name(context.config.tracking.experiment)]
    [shown] = client.search_runs([experiment.experiment_id], "tags.`sana.stage` = 'train'")
    images = [path for path in paths_of(client, shown, "images") if path.endswith(".png")]
    covers = [path for path in images if "+step+0+" in path]
    assert {path.partition("+")[0] for path in covers} == {path.partition("+")[0] for path in images}, "seen first"
    cover_tag = "sana.cover.validation/5x64x96-ema"
    assert client.get_run(shown.info.run_id).data.tags[cover_tag] == "4", "the newest"
    images = [path for path in images if path not in covers]
    previews = [path for path in images if "/preview~" in path]
    images = [path for path in images if path not in previews]
    assert len(images) == 4, "a sheet of live and one of EMA weights at each step"
    of_step_2 = [f"preview~bunny-5x64x96-seed3-ema+step+{20_000 + sampler_step}+" for sampler_step in (1, 2)]
    assert len(previews) == 8 and all(any(name in path for path in previews) for name in of_step_2)
    fitted = LinearPreview.from_json(context.store.read(in_loop[-1].files["preview.json"].key), where="test")
    assert fitted.num_clips > 4 and fitted.num_held_out > 1 and fitted.psnr_db > 10
    with Image.open(context.work_dir / "previews/train/bunny-5x64x96-seed3-ema/0002.png") as picture:
        assert np.asarray(picture).std() > 10
    for name, step in (("live", 2), ("ema", 4)):
        assert [path for path in images if f"validation~5x64x96-{name}+step+{step}+" in path]
    assert paths_of(client, shown, "validation/step_00000002") == [
        f"validation/step_00000002/bunny-5x64x96-seed3-{which}.mp4" for which in ("ema", "live")
    ]
    for name, values in (("validation/failed", {0.0}), ("time/validation_s", None)):
        points = client.get_metric_history(shown.info.run_id, name)
        assert sorted(point.step for point in points) == [2, 4], name
        assert values in (None, {point.value for point in points})

    # on another machine: the checkpoint's own weights, read from the store
    for key, _ in context.store.list(kept.all_of(trajectory)):
        context.store.delete(key)
    with inline_workers():
        for step in ("2", "4"):
            main(["sample", "configs/demo.yaml", *options(own, *VALIDATION), "--step", step])
        main(["sample", "configs/demo.yaml", *options(own, *VALIDATION)])  # the newest, which is there
        main(["sample", "configs/demo.yaml", *options(own, *VALIDATION), "--step", "0"])
    again = list(kept.records(context.store, trajectory))
    assert [record.step for record in again] == [0, 2, 4]
    assert [[video.digest for video in record.videos] for record in again[1:]] == [
        [video.digest for video in record.videos] for record in in_loop
    ], "bit for bit what training made"
    printed = capsys.readouterr().out
    assert printed.count("bunny-5x64x96-seed3-ema.mp4") == 3 and printed.count("contact sheet: ") == 7
    images = [path for path in paths_of(client, shown, "images") if path.endswith(".png") and "/preview~" not in path]
    assert len([path for path in images if path not in covers]) == 5, "step 0 is new"
    assert client.get_run(shown.info.run_id).data.tags[cover_tag.replace("ema", "live")] == "own", (
        "it is seen first, and stays"
    )

    with pytest.raises(SystemExit):
        main(["sample", "configs/demo.yaml", *options(own, *VALIDATION), "--step", "3"])
    assert "has no checkpoint of step 3 of this config (steps there: 2, 4)" in capsys.readouterr().err
