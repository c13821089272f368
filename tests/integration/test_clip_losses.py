"""Loss by clip and the histogram of noise levels: files of the train artifact, in MLflow and in the data report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from sana.artifact import Recipe
from sana.data.tables import read_table
from sana.report.page import data_report
from sana.report.states import StageState
from sana.training.checkpoints.checkpoint_io import load
from sana.training.ledger.sample_ledger import LEDGER
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import pipeline_key, tracking_uri
from tests.pipeline_runs import Outcome, Place
from tests.report_pages import assert_harmless, thumbnails_of
from tests.training_lab import Lab

FILES = ("clip_losses.parquet", "sigma_histogram.parquet", "sigma_histogram.png")


def test_the_artifact_has_the_losses_of_its_samples_and_its_levels(trained: tuple[Place, Outcome]) -> None:
    place, outcome = trained
    store, artifact = place.context().store, outcome["train"]
    assert set(FILES) <= artifact.files.keys() and set(artifact.content) == {"weights"}
    steps, batch = int(artifact.counts.extra["steps"]), place.config().train.global_batch_size
    losses, levels = (read_table(store, artifact, name) for name in FILES[:2])
    assert sum(losses["num_draws"].to_pylist()) == sum(levels["draws"].to_pylist()) == steps * batch
    assert sum(levels["expected_draws"].to_pylist()) == pytest.approx(steps * batch)
    index = {row["sample_id"]: row for row in read_table(store, outcome["encode_latents"], "index.parquet").to_pylist()}
    assert all(index[row["sample_id"]]["clip_id"] == row["clip_id"] for row in losses.to_pylist())
    assert {index[name]["split"] for name in losses["sample_id"].to_pylist()} == {"train"}
    assert store.read(artifact.files[FILES[2]].key)[:4] == b"\x89PNG"


def test_mlflow_shows_them(
    trained: tuple[Place, Outcome], tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place, outcome = trained
    shutil.copy(tracking_database, tmp_path)
    config = place.config(f"work_dir={tmp_path}")
    with Tracker(config, place.context().store, pipeline_key(config), {}) as tracker:
        tracker.stage(Recipe("train", 1, {}, {}), {}).finished(outcome["train"], "Cached")
    client = MlflowClient(tracking_uri(config))
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id], "tags.`sana.stage` = 'train'")
    assert set(FILES) <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_the_report_shows_the_hardest_and_the_easiest_with_pictures_and_captions(
    trained: tuple[Place, Outcome],
) -> None:
    place, outcome = trained
    without = ("download", "probe", "bucket", "encode_captions", "encode_latents")
    pages = [
        data_report(place.context(), "demo", [StageState(name, "committed", outcome[name]) for name in names], now=0.0)
        for names in (without, (*without, "train"))
    ]
    assert 'id="clip-losses"' not in pages[0] and 'id="clip-losses"' in pages[1]
    page = assert_harmless(pages[1])
    rows = read_table(place.context().store, outcome["train"], FILES[0]).to_pylist()
    least = min(3, max(row["num_draws"] for row in rows))
    often = sorted((row for row in rows if row["num_draws"] >= least), key=lambda row: -row["normalised_loss"])
    shown = pages[1][pages[1].index("<h3>Hardest") :]
    for first, row in ((shown, often[0]), (shown[shown.index("<h3>Easiest") :], often[-1])):
        assert row["sample_id"] in first.partition("</tr>")[2].partition("</tr>")[0]
    texts = read_table(place.context().store, outcome["download"], "captions.parquet").to_pylist()
    captions = {row["clip_id"]: row["captions"][0] for row in texts}
    assert captions[often[0]["clip_id"]][:60] in page.words
    assert len(thumbnails_of(shown)) == 2 * min(8, len(often))


def test_a_checkpoint_of_before_there_was_a_ledger_is_resumed_from(lab: Lab) -> None:
    straight = lab.train("straight", max_steps=6, checkpoint_every=2)
    lab.train("older", max_steps=4, checkpoint_every=2)
    index = lab.path(lab.at("older", 4).key)
    record = json.loads(index.read_text())
    del record["files"]["ledger.safetensors"]
    index.write_text(json.dumps(record))
    resumed = lab.train("older", max_steps=6, checkpoint_every=2)
    assert lab.rows(resumed) == lab.rows(straight)
    whole, part = (load(lab.store, one, LEDGER) for one in (straight, resumed))
    assert whole["draws"].sum() == 6 * 4 and part["draws"].sum() == 2 * 4
    assert (part["draws"] <= whole["draws"]).all()
    assert np.isfinite(whole["excess"].numpy()).all()
