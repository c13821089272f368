"""W&B (offline) and TensorBoard beside MLflow: the same curves when resumed, and never in a run's way."""

import struct
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sana.artifact import Draft, Recipe
from sana.config.delivery.tracking import TrackingConfig
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.pipeline.observers import COMPLETED, Committed, RunStart, WorkStart
from sana.store import open_store
from tasks.trackers import observer as observing
from tasks.trackers.observer import trackers_of
from tasks.trackers.tensorboard import TensorBoard
from tests.shown_runs import LOSSES

RECIPE = Recipe("train", 1, {"learning_rate": 1e-3}, {})


def config_in(folder: Path, *overrides: str) -> Config:
    return load_config("configs/demo.yaml", [f"root={folder}/store", f"work_dir={folder}/work", *overrides])


def rows(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, "train/loss": 1.0 / step, "eval/loss_live/sigma_0.5": 1.0} for step in steps]


def train(config: Config, *batches: list[dict[str, float]], killed: bool = False) -> None:
    for one in trackers_of(config, "0123456789abcdef"):
        one.on_run_start(RunStart("demo", Context(config, open_store(config.root), Path(config.work_dir))))
        one.on_event(WorkStart("train", RECIPE, {}))
        for batch in batches:
            one.on_metrics("train", batch)
        if not killed:
            recipe = Recipe("evaluate", 1, {}, {"n": str(time.time_ns())})
            made = Draft(open_store(config.root), recipe).commit(
                content={}, counts=Counts(5, 5, 0, {}, {}, None, {}), facts=LOSSES
            )
            one.on_event(Committed("evaluate", recipe, {}, made, COMPLETED))
        one.on_run_end(KeyboardInterrupt() if killed else None)


def test_tensorboard_continues_the_curve_of_a_killed_run(tmp_path: Path) -> None:
    config = config_in(tmp_path, "tracking.also=[tensorboard]")
    train(config, rows(1, 2, 3), rows(4, 5), killed=True)
    time.sleep(0.05)
    train(config, rows(4, 5, 6))  # from the checkpoint at step 3
    [folder] = (tmp_path / "work" / "tensorboard").iterdir()
    assert folder.name.startswith("demo_full_demo_20") and folder.name.endswith(RECIPE.fingerprint[:8])
    read = EventAccumulator(str(folder)).Reload()
    points = read.Scalars("train/loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert points[-1].value == pytest.approx(1 / 6)
    assert read.Scalars("result/eval_loss_ema")[0].value == pytest.approx(0.6)


def test_wandb_offline_has_the_curve_once_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(observing, "DRAIN_S", 60.0)  # a busy machine
    options = "tracking.also=[{kind: wandb, mode: offline, project: videos, name: '{config} {key}'}]"
    config = config_in(tmp_path, options)
    train(config, rows(1, 2, 3))
    train(config, rows(3, 4))
    found = sorted((tmp_path / "work" / "wandb").rglob("*.wandb"))
    assert len(found) == 2 and all(path.stem == f"run-{RECIPE.fingerprint}" for path in found)
    steps = [step for path in found for step in logged_steps(path)]
    assert steps == [1, 2, 3, 4]
    assert all(b"0123456789abcdef0123456789abcdef01234567" not in path.read_bytes() for path in found)
    assert any(b"demo 01234567" in path.read_bytes() for path in found), "the run's name"


def logged_steps(path: Path) -> list[int]:
    """Read a run's file back as `wandb sync` would."""
    from wandb.proto import wandb_internal_pb2

    found = []
    data, at = path.read_bytes(), 7  # LevelDB's log behind a header; the file is smaller than one block
    assert len(data) < 2**15
    while at + 7 <= len(data):
        _, length, _ = struct.unpack_from("<IHB", data, at)
        record = wandb_internal_pb2.Record.FromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        items = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
        if "step" in items:
            found.append(int(float(items["step"])))
    return found


def test_a_tracker_that_fails_or_hangs_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    failing = config_in(tmp_path, f"tracking.also=[{{kind: tensorboard, folder: {tmp_path}/file}}]")
    train(failing, rows(1), rows(2))
    assert [record.message for record in caplog.records if "tensorboard does not work" in record.message]
    caplog.clear()
    monkeypatch.setattr(observing, "DRAIN_S", 0.2)
    monkeypatch.setattr(observing.TrackerObserver, "_send", lambda *_: time.sleep(1.0))
    started = time.monotonic()
    train(config_in(tmp_path, "tracking.also=[tensorboard]"), rows(1), rows(2))
    assert time.monotonic() - started < 0.9
    assert [record.message for record in caplog.records if "has not taken all within 0.2 s" in record.message]


@pytest.mark.parametrize("call", ["rows", "results", "close"])
def test_a_fault_of_a_tracker_itself_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("<b>no bytes")

    monkeypatch.setattr(TensorBoard, call, broken)
    train(config_in(tmp_path, "tracking.also=[tensorboard]"), rows(1), rows(2))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "tensorboard does not work: <b>no bytes. The run continues without it; MLflow has all"
    ]


def test_wandb_without_a_server_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    train(config_in(tmp_path, "tracking.also=[wandb]"), rows(1), rows(2))
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("wandb does not work: ") and warning.endswith("without it; MLflow has all")


def test_rows_beyond_the_queue_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observing, "MAX_WAITING", 2)
    monkeypatch.setattr(observing, "DRAIN_S", 2.0)
    monkeypatch.setattr(observing.TrackerObserver, "_send", lambda *_: time.sleep(0.2))
    train(config_in(tmp_path, "tracking.also=[tensorboard]"), *(rows(step) for step in range(1, 9)))
    assert [record.message for record in caplog.records if "batches of metrics were left out" in record.message]


WRONG = {
    "unknown": (["swanlab"], "tensorboard"),
    "twice": (["wandb", "wandb"], "twice"),
    "a project of tensorboard": ([{"kind": "tensorboard", "project": "x"}], "is of wandb"),
    "a project's name": ([{"kind": "wandb", "project": "a/b"}], "does not take"),
    "a name": ([{"kind": "wandb", "name": "{nobody}"}], "nothing fills in"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_tracker_that_cannot_be_is_found_at_load(case: str) -> None:
    also, says = WRONG[case]
    with pytest.raises(ValueError, match=says):
        TrackingConfig(also=also)


def test_a_package_that_is_missing_is_found_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'sana-video-pipeline\[trackers\]'"):
        TrackingConfig(also=["wandb"])
