"""The eval loss of trainings that are not finished, as lists show it, and what people call trainings."""

import json
from pathlib import Path
from typing import Any

import pytest

from sana.comparison.compare import compare
from sana.comparison.lineage import Lineage
from sana.comparison.record import Side
from sana.comparison.words import side_name
from sana.facts import TrainFacts
from sana.report.live.live_page import Topic
from sana.report.live.pages import About
from sana.report.live.source import LiveRoot
from sana.runs import newest_eval
from sana.runs.compared import find_subject
from sana.runs.newest_eval import EvalSoFar, NewestEvals
from sana.runs.records import RunStatus, StageStatus, status_key
from sana.runs.titles import titled, titles_of
from sana.store import LocalStore, Store, open_store
from tests.made_up_runs import Clip, Made, make_data, make_training, put_run
from tests.trained_roots import record_run, save_steps

A, B = "0000aaaa0000aaaa", "0000bbbb0000bbbb"
EMA = {"eval/loss_ema": 0.5, "eval/stderr_ema": 0.01, "eval/loss_live": 0.6}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([{"step": 3, "train/loss": 1.0}], None),
        ([{"step": 3, **EMA}, {"step": 4, "train/loss": 1.0}], EvalSoFar(3, "ema", 0.5, 0.01)),
        ([{"step": 5, **EMA, "eval/loss_ema": 0.4}, {"step": 3, **EMA}], EvalSoFar(5, "ema", 0.4, 0.01)),
        ([{"step": 3, "eval/loss_live": 0.6}], EvalSoFar(3, "live", 0.6, None)),
        ([EMA], None),
    ],
)
def test_the_last_eval_loss_is_that_of_the_ema_weights_where_there_are(rows: list[Any], expected: object) -> None:
    assert newest_eval.newest_eval(rows) == expected


class Counting(LocalStore):
    """A folder that counts what is read of metrics."""

    num_reads = 0

    def read(self, key: str) -> bytes:
        self.num_reads += "/metrics/" in key
        return super().read(key)


def test_what_a_checkpoint_has_is_read_once_and_what_a_run_tells_comes_after(tmp_path: Path) -> None:
    store = Counting(str(tmp_path / "root"))
    save_steps(store, A, 150)  # an eval loss at step 100; segments of 50 steps
    evals = NewestEvals(store)
    evals.refresh({A: 1.0})
    assert evals.of(A) == EvalSoFar(100, "ema", pytest.approx(0.71), 0.01) and store.num_reads == 2
    evals.refresh({A: 2.0})
    assert store.num_reads == 2 and evals.step_of(A) == 150
    save_steps(store, A, 200)
    evals.refresh({A: 2.0})
    assert evals.of(A).step == 100  # nothing was heard of it
    evals.refresh({A: 3.0})
    assert evals.of(A).step == 200 and store.num_reads == 3
    assert evals.of(A, [{"step": 220, **EMA}]).step == 220 and evals.of(A, [{"step": 100, **EMA}]).step == 200
    evals.refresh({})
    assert evals.of(A) is None


@pytest.mark.parametrize("data", [b"{\n", b"[1]\n", b'{"step": "x", "eval/loss_ema": 1}\n', b"\xff\n"])
def test_damaged_metrics_hide_no_training(store: Store, data: bytes) -> None:
    keys = save_steps(store, A, 100)
    store.delete(keys[-1])
    store.put_if_absent(keys[-1], data)
    save_steps(store, B, 100)
    evals = NewestEvals(store)
    evals.refresh({A: 0.0, B: 0.0})
    assert evals.of(A) is None and evals.of(B).step == 100


def test_few_are_looked_at_for_the_first_time_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_eval, "MAX_NEW", 1)
    for name in (A, B):
        save_steps(store, name, 100, every=100)
    evals = NewestEvals(store)
    evals.refresh({A: 0.0, B: 0.0})
    assert evals.of(A) is not None and evals.of(B) is None
    evals.refresh({A: 0.0, B: 0.0})
    assert evals.of(B) is not None


def trainings_list(store: Store) -> str:
    root = LiveRoot(store, About("root"))
    root.refresh()
    return root.page(Topic("overview")).parts["trainings"]


def test_the_list_has_the_newest_eval_loss_of_what_trains_and_of_what_was_left(store: Store) -> None:
    save_steps(store, A, 100)
    save_steps(store, B, 100)
    record_run(store, "20261128-120000-aaaaaa", trajectory=A, rows=[{"step": 110, **EMA}])
    page = trainings_list(store)
    assert "0.5000 ± 0.0100<small>ema, at step 110</small>" in page
    assert "0.7100 ± 0.0100<small>ema, at step 100</small>" in page and "none yet" not in page


def test_what_trained_keeps_its_eval_loss_until_evaluate_has_one(store: Store) -> None:
    data = make_data(store, [Clip(f"e{n}") for n in range(2)])
    trained = make_training(store, data, Made()).train
    trajectory = TrainFacts.of(trained).trajectory
    save_steps(store, trajectory, 100)
    record_run(store, "20261128-120000-aaaaaa", trajectory=trajectory, fingerprint=trained.fingerprint)
    page = trainings_list(store)
    assert trained.fingerprint in page and "0.7100 ± 0.0100<small>ema, at step 100</small>" in page


def test_a_folder_that_nothing_is_left_in_is_no_training(store: Store) -> None:
    store.put_if_absent(f"train/{A}/attempt/model.safetensors", b"of a run that was killed before it was committed")
    save_steps(store, B, 100)
    page = trainings_list(store)
    assert A not in page and B in page and '<td class="n">100</td>' in page
    record_run(store, "20261128-120000-aaaaaa", trajectory=A, fingerprint="c0ffee00c0ffee00")
    assert A in trainings_list(store)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (StageStatus("stopped", 10.0, 15.0), "5 s"),
        (StageStatus("stopped", 10.0, 15.0, done=3, total=9, unit="clips"), "3 of 9 clips · 5 s"),
        (StageStatus("completed", 10.0, 15.0, num_in=9, num_out=8, num_rejected=1), "8 of 9, 1 rejected · 5 s"),
        (StageStatus("cached", 10.0, 15.0, num_in=9, num_out=9, num_rejected=0), "9 in"),
        (StageStatus("stopped", 10.0), ""),
        (StageStatus("running", 10.0, left_s=4.0), "begins · 4 s left"),
    ],
)
def test_a_stage_is_told_without_a_loose_separator(store: Store, stage: StageStatus, words: str) -> None:
    run_id = "20261128-120000-aaaaaa"
    record_run(store, run_id)
    store.put_if_absent(status_key(run_id, 9), RunStatus(run_id, 4e9, {"train": stage}).to_json())
    root = LiveRoot(store, About("root"))
    root.refresh()
    for page in (root.page(Topic("run", run_id)).parts["stages"], root.page(Topic("runs")).parts["runs"]):
        told = page.partition("what" if "what" in page else "<td>train<small")[2].partition(">")[2].partition("<")[0]
        assert told.strip() == (words if stage.state != "running" else "")  # 4e9: a time to come, so it is silent


def side(**values: object) -> Side:
    named = {"label": "A", "name": "x", "root": "r", "train": "", "trajectory": "", "step": None, "weights": "ema"}
    measured = {"method": "", "evaluated": "", "loss": 1.0, "stderr": None, "num_samples": 1}
    return Side(**{**named, **measured, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": A, "train": A, "title": "demo"}, "demo 0000aaaa"),
        ({"name": "0000", "train": A, "title": "demo", "step": 60}, "demo 0000aaaa"),
        ({"name": f"{A}@60", "trajectory": A, "step": 60, "title": "demo"}, "demo 0000aaaa@60"),
        ({"name": f"{A}@60", "trajectory": A, "step": 60}, "0000aaaa@60"),
        ({"name": A, "train": A}, "0000aaaa"),
        ({"name": "configs/cats.yaml", "train": A}, "cats 0000aaaa"),
        ({"name": "exports/model"}, "exports/model"),
    ],
)
def test_a_side_is_called_by_its_config_and_a_short_fingerprint(values: dict[str, object], expected: str) -> None:
    assert side_name(side(**values)) == expected


def test_sides_have_the_titles_of_their_newest_runs(store: Store) -> None:
    data = make_data(store, [Clip(f"e{n}") for n in range(2)])
    losses = {"e0": [1.0, 1.0], "e1": [1.0, 1.0]}
    made = [make_training(store, data, Made(losses, settings={"learning_rate": rate})) for rate in (1e-3, 2e-3)]
    trajectories = [TrainFacts.of(one.train).trajectory for one in made]
    first, second = (one.train.fingerprint for one in made)
    put_run(store, "20261128-120000-aaaaaa", "old", trajectories[0], fingerprint=first)
    put_run(store, "20261128-120100-bbbbbb", "cats", trajectories[0], fingerprint=first)
    put_run(store, "20261128-120200-cccccc", "longer", trajectories[0], state=None)
    assert titles_of(store, {trajectories[0]}) == {trajectories[0]: "longer", first: "cats"}
    assert titles_of(store, set()) == {}
    lineage = Lineage(store)
    found = compare(titled([find_subject(name, lineage, "ema") for name in (first, second)]))
    assert [one.title for one in found.sides] == ["cats", ""]
    assert json.loads(found.to_json())["sides"][0]["title"] == "cats"
