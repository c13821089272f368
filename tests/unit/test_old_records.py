"""`sana gc --runs-older-than`: which records of runs go, and which never do."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.cli.main import main
from sana.facts import TrainFacts
from sana.runs import old_records
from sana.store import LocalStore
from tests.made_up_runs import Clip, Made, make_data, make_training, put_run

DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def put(store: LocalStore, number: int, age_days: float, trajectory: str = "", *, ended: bool = True) -> str:
    """Put a run whose records were written so long ago; a greater number is a later run."""
    run_id = f"20261128-1540{number:02}-aaaaaa"
    put_run(store, run_id, "cats", trajectory, state="completed" if ended else None)
    for path in Path(store.root, "runs", run_id).rglob("*.json"):
        at = time.time() - age_days * DAY_S
        os.utime(path, (at, at))
    return run_id


def left(store: LocalStore, *options: str) -> list[str]:
    main(["gc", "--root", store.root, "--runs-older-than", *options])
    return sorted(path.name for path in Path(store.root, "runs").iterdir() if any(path.rglob("*.json")))


@pytest.mark.parametrize(
    ("of", "ended", "age_days", "days", "stays"),
    [
        ("kept", True, 400.0, "30", True),  # its config and attempts are told on the training's page
        ("gone", True, 400.0, "30", False),  # of a training that gc has deleted
        ("gone", True, 29.0, "30", True),
        ("none", True, 31.0, "30", False),  # it came to no training
        ("none", False, 31.0, "30", False),  # killed, so it has no end
        ("none", False, 0.0, "0", True),  # at work: it said something a moment ago
        ("gone", False, 0.02, "0", True),
        ("gone", False, 0.05, "0", False),
    ],
)
def test_which_records_go(store: LocalStore, of: str, ended: bool, age_days: float, days: str, stays: bool) -> None:
    made = make_training(store, make_data(store, [Clip("clip-a")]), Made({"clip-a": [1.0]})).train
    trajectory = {"kept": TrainFacts.of(made).trajectory, "gone": "beefbeefbeefbeef", "none": ""}[of]
    run_id = put(store, 1, age_days, trajectory, ended=ended)
    assert left(store, days) == [run_id], "without --delete nothing goes"
    assert left(store, days, "--delete") == ([run_id] if stays else [])


def test_of_a_kept_training_the_newest_runs_stay(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(old_records, "KEPT", 2)
    made = make_training(store, make_data(store, [Clip("clip-a")]), Made({"clip-a": [1.0]})).train
    runs = [put(store, number, 100.0, TrainFacts.of(made).trajectory) for number in range(4)]
    half = Path(store.root, "runs", put(store, 9, 100.0), "start.json")
    half.unlink()  # a gc that was killed left the rest
    assert left(store, "90", "--delete") == runs[2:]
    assert "the record of a run that ended or fell silent long ago" in capsys.readouterr().out
    main(["gc", "--root", store.root, "--delete", "--grace-hours", "0"])
    assert sorted(path.name for path in Path(store.root, "runs").iterdir() if any(path.rglob("*.json"))) == runs[2:]


def test_runs_that_came_to_no_training_are_listed_as_attempts(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = put(store, 1, 0.0, ended=False)

    def said(*options: str) -> Sequence[str]:
        main(["runs", "--root", store.root, *options])
        return capsys.readouterr().out.splitlines()

    assert said()[-1] == "1 run came to no training; --attempts lists them"
    told = said("--attempts")
    assert (
        told[-2] == "runs that came to no training:"
        and told[-1].startswith(f"  {run_id}  silent")
        and "cats" in told[-1]
    )
    assert "came to no training" not in "".join(said("--attempts", "--filter", "name=c"))
