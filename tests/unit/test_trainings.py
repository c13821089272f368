"""`sana runs`: what it lists, in which order, with how many reads; nothing of it needs torch."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from flows.display.trainings import attempt_lines
from sana.artifact import Artifact
from sana.counts import Counts
from sana.facts import EvaluateFacts, PairedDifference, TrainFacts, WeightsLoss
from sana.runs.choosing import chosen
from sana.runs.trainings import TrainingList, trainings_of
from sana.store import Store, open_store
from tests.made_up_runs import Clip, Made, make_data, make_training, put_run

LOSSES = {"clip-a": (1.0, 1.0)}
CLIPS = [Clip("clip-a"), Clip("clip-t", split="train")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def trained(store: Store, *, step: int = 100, losses: Any = LOSSES, **settings: Any) -> Artifact:
    return make_training(store, make_data(store, CLIPS), Made(losses, settings=settings, step=step)).train


def test_a_finished_training_says_what_it_is(store: Store) -> None:
    train = trained(store)
    facts = TrainFacts.of(train)
    put_run(store, "20261128-154012-3fa9c1", "cats", facts.trajectory)
    put_run(store, "20261128-164012-3fa9c1", "cats-again", facts.trajectory, state="failed")
    row = trainings_of(store, now=2000.0).trainings[0]
    assert (row.name, row.state, row.train, row.trajectory) == (
        "cats-again",
        "finished",
        train.fingerprint,
        facts.trajectory,
    )
    assert (row.step, row.method, row.eval_loss, row.eval_stderr) == (100, "full", 1.0, 0.01)
    assert row.drop == 0.5 and row.num_bytes == 2 and row.at == train.created_at
    assert [(one.run_id, one.state) for one in row.attempts] == [
        ("20261128-164012-3fa9c1", "failed"),
        ("20261128-154012-3fa9c1", "completed"),
    ]


@pytest.mark.parametrize(("state", "now", "said"), [("failed", 1100.0, "failed"), (None, 1070.0, "running")])
def test_a_training_that_is_not_finished_has_the_state_of_its_newest_run(
    store: Store, state: str | None, now: float, said: str
) -> None:
    put_run(store, "20261128-154012-3fa9c1", "cats", "aaaa000011112222", state=state)
    for limit in (None, 5):
        (row,) = trainings_of(store, now=now, limit=limit).trainings
        assert (row.state, row.train, row.trajectory, row.step, row.eval_loss) == (
            said,
            "",
            "aaaa000011112222",
            7,
            None,
        )


def test_a_training_without_any_run_on_record_is_found_by_its_checkpoints(store: Store) -> None:
    store.put_if_absent("train/bbbb000011112222/checkpoints/step_00000030/index.json", b"{}")
    (row,) = trainings_of(store, now=0.0).trainings
    assert (row.state, row.trajectory, row.step, row.at) == ("unfinished", "bbbb000011112222", 30, None)


def test_an_empty_root_has_none(store: Store) -> None:
    assert trainings_of(store, now=0.0) == TrainingList(store.root, 0, ())
    assert trainings_of(store, now=0.0, limit=5).total == 0


@pytest.fixture
def three(store: Store) -> TrainingList:
    """Three trainings, made in this order: worst, best, and one that was never evaluated."""
    trained(store, losses={"clip-a": (1.5, 1.5)}, learning_rate=1, step=10)
    trained(store, losses={"clip-a": (0.5, 0.5)}, learning_rate=2, step=30, method={"name": "lora"})
    trained(store, losses={}, learning_rate=3, step=20)
    return trainings_of(store, now=time.time())


@pytest.mark.parametrize(
    ("sort", "steps"),
    [("newest", [20, 30, 10]), ("loss", [30, 10, 20]), ("drop", [30, 10, 20]), ("step", [30, 20, 10])],
)
def test_sorts(three: TrainingList, sort: Any, steps: list[int]) -> None:
    assert [row.step for row in chosen(three, sort, {}, None).trainings] == steps


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [
        ({"method": "lora"}, [30]),
        ({"method": "full"}, [20, 10]),
        ({"method": "full", "step": "10"}, [10]),
        ({"data": "dogs"}, []),
        ({"state": "finished"}, [20, 30, 10]),
    ],
)
def test_filters(three: TrainingList, wanted: dict[str, str], steps: list[int]) -> None:
    found = chosen(three, "newest", wanted, None)
    assert [row.step for row in found.trainings] == steps and found.total == len(steps)
    assert len(chosen(three, "newest", wanted, 1).trainings) == min(1, len(steps))


Listing = list[tuple[str, int]]
Names = list[str]


class CountedReads:
    """A root with so many artifacts of train and evaluate that no disk has: reads are counted and answered by rule."""

    root, is_local = "made-up", True

    def __init__(self, number: int) -> None:
        self.number = number
        self.reads = self.listings = 0

    def uri(self, key: str) -> str:
        return key

    def list(self, prefix: str) -> Listing:
        self.listings += 1
        stage = prefix.partition("/")[0]
        if stage not in ("train", "evaluate"):
            return []
        return [(f"{stage}/history/{n:014d}-{n:016x}", 0) for n in range(self.number)]

    def list_dirs(self, prefix: str) -> Names:
        self.listings += 1
        return [f"{n:016x}" for n in range(self.number)] if prefix == "train" else []

    def read(self, key: str) -> bytes:
        stage, name, _ = key.split("/")
        self.reads += 1
        number = int(name, 16)
        facts: Any = TrainFacts(f"t{number}", number, "x", (), "")
        if stage == "evaluate":
            loss = WeightsLoss(number / self.number, 0.1, ())
            facts = EvaluateFacts({"ema": loss}, {"ema": PairedDifference(-0.1, 0.1, 5, 0.1)}, 1)
        content = {"weights": f"w{number}"} if stage == "train" else {}
        inputs = {"weights": f"w{number}"} if stage == "evaluate" else {}
        counts = Counts.all_kept(1)
        made = Artifact(stage, name, 1, {}, inputs, content, counts, {}, facts.to_value(), created_at=float(number))
        return made.to_json()


@pytest.mark.parametrize(("number", "limit", "reads"), [(10_000, 30, 60), (2000, None, 4000)])
def test_each_artifact_is_read_once_and_those_of_the_newest_alone(number: int, limit: int | None, reads: int) -> None:
    """Of 10,000 trainings and evaluations the newest 30 take 30 reads and a few ahead; all of 2,000 take 4,000."""
    store: Any = CountedReads(number)
    found = trainings_of(store, now=0.0, limit=limit)
    assert found.total == number and found.trainings[0].step == number - 1
    assert all(row.eval_loss is not None for row in found.trainings)
    assert reads <= store.reads <= reads + 2 * 256
    assert store.listings < 12 + (2000 if limit is None else 0)  # of each folder whether it has checkpoints


def run(store: Store, *arguments: str, columns: int = 120) -> str:
    environment = {"COLUMNS": str(columns)}
    result = CliRunner().invoke(
        cli, ["runs", "--root", store.root, *arguments], env=environment, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_fits_80_and_120_columns_and_trusts_no_name(store: Store) -> None:
    train = trained(store)
    put_run(store, "20261128-154012-3fa9c1", "a\x1b[31mred <b>name</b> that is long", TrainFacts.of(train).trajectory)
    wide, narrow = (run(store, "--attempts", columns=columns) for columns in (120, 80))
    for text, columns in ((wide, 120), (narrow, 80)):
        table = text.splitlines()[:2]
        assert all(len(line) <= columns for line in table), table
        assert "\x1b" not in text and "20261128-154012-3fa9c1  completed, after 60 s" in text
    assert "full" in wide and "full" not in narrow and "1.0000 ± 0.0100" in narrow and "50.0%" in narrow
    document = TrainingList.from_json(run(store, "--json"), where="--json")
    assert document.trainings[0].train == train.fingerprint
    assert "--limit 0 for all" not in wide


def test_a_stop_is_told_by_what_and_where_and_is_no_error(store: Store) -> None:
    train = trained(store)
    put_run(store, "20261128-154012-3fa9c1", "demo", TrainFacts.of(train).trajectory)
    [row] = trainings_of(store, now=time.time()).trainings
    said = "stopped by SIGTERM at stage train, step 12"
    [attempt] = row.attempts
    stopped = replace(attempt, state="stopped", error=f"{said}; run the same command again")
    found = TrainingList(store.root, 1, (replace(row, attempts=(stopped,)),))
    _, line = attempt_lines(found, now=attempt.heard_at + 120)
    assert line == f"  20261128-154012-3fa9c1  {said}, after 60 s, 2 min ago"


def test_a_filter_of_no_key_is_a_usage_error(store: Store) -> None:
    result = CliRunner().invoke(cli, ["runs", "--root", store.root, "--filter", "colour=red"])
    assert result.exit_code == 2 and "no KEY=VALUE with a key of name, state" in result.output


@pytest.mark.timeout(60)
def test_the_list_needs_no_torch(store: Store) -> None:
    trained(store)
    script = (
        f"import sys; from flows.cli.main import main; main(['runs', '--root', {store.root!r}]); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "prefect", "diffusers"} & set(done.stdout.split())
