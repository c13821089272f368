"""MLflow's registry against a real sqlite store: versions of trained models, and who may be champion."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from flows.cli.main import main
from sana.comparison.promotion import PromoteDocument, candidate_of
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.store import Store, open_store
from tasks.tracking.calls import LOGGED_MODEL
from tasks.tracking.registry import CHAMPION, Registered, Registry, register, registered_name
from tasks.tracking.tracker import Tracker
from tests.made_up_runs import Losses, Made, Training, make_data, make_training
from tests.unit.test_promotion import CLIPS, LUCKY, losses

pytestmark = pytest.mark.timeout(90)


class Desk:
    """A root, an MLflow database, and the trainings that a test makes in them."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        (folder / "work").mkdir()
        shutil.copy(database, folder / "work")
        self.data = make_data(self.store, CLIPS)
        self._number = 0

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "store"))

    def config(self, *overrides: str) -> Config:
        return load_config("configs/demo.yaml", [*self.options, *overrides])

    @property
    def options(self) -> list[str]:
        return [f"root={self.folder}/store", f"work_dir={self.folder}/work"]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/work/mlflow.db")

    def registry(self) -> Registry:
        return Registry(self.client, "model", self.store)

    def train(self, of: Losses) -> Training:
        self._number += 1  # no two are the same training
        return make_training(self.store, self.data, Made(of, settings={"learning_rate": self._number}))

    def promote(self, training: Training, *, forced: str = "") -> Registered:
        candidate = candidate_of(self.store, training.train.fingerprint)
        return self.registry().promote(candidate, None, forced=forced)

    def champion(self) -> str:
        return self.client.get_model_version_by_alias("model", CHAMPION).tags["sana.fingerprint"]


@pytest.fixture
def desk(tmp_path: Path, tracking_database: Path) -> Desk:
    return Desk(tmp_path, tracking_database)


def reason(found: Registered) -> str:
    assert found.decision is not None
    return found.decision.reason


def test_the_first_is_champion_and_a_surely_better_one_follows(desk: Desk) -> None:
    first, better = desk.train(losses(1.0, 0.02, 1)), desk.train(losses(0.9, 0.02, 2))
    assert reason(desk.promote(first)) == "it is the first: there is no champion"
    assert desk.champion() == first.train.fingerprint
    found = desk.promote(better)
    assert found.decision is not None and found.decision.moves and desk.champion() == better.train.fingerprint
    assert reason(desk.promote(better)) == "it is the champion already"
    version = desk.client.get_model_version("model", found.version)  # and its tags still say why it is
    assert version.tags["sana.decision"] == "champion" and version.tags["sana.decision.against"] == "1"
    assert float(version.tags["sana.decision.difference"]) == pytest.approx(-0.1, abs=0.02)


def test_a_false_champion_is_not_promoted(desk: Desk) -> None:
    """It is worse by 0.005, and luck puts its mean on this list 0.026 lower; see tests/unit/test_promotion.py."""
    champion, other = desk.train(losses(*LUCKY[0])), desk.train(losses(*LUCKY[1]))
    desk.promote(champion)
    found = desk.promote(other)
    assert found.decision is not None and not found.decision.moves and "not surely below" in found.decision.reason
    assert desk.champion() == champion.train.fingerprint and found.champion == "1"
    tags = desk.client.get_model_version("model", found.version).tags
    assert tags["sana.decision"] == "not moved" and tags["sana.decision.reason"] == found.decision.reason


@pytest.mark.parametrize("gone", ["train", "root"])
def test_a_champion_that_is_gone_stays_until_forced(desk: Desk, gone: str) -> None:
    champion, better = desk.train(losses(1.0, 0.02, 1)), desk.train(losses(0.5, 0.02, 2))
    desk.promote(champion)
    if gone == "root":
        desk.client.set_model_version_tag("model", "1", "sana.root", str(desk.folder / "removed"))
        decision, _ = desk.registry().decide(candidate_of(desk.store, better.train.fingerprint))
        assert decision.moves, "a copy of it is in this root"
    desk.store.delete(f"{champion.train.key}/artifact.json")
    assert "gone" in reason(desk.promote(better)) and desk.champion() == champion.train.fingerprint
    assert desk.promote(better, forced="the champion was removed").champion == "2"


def test_a_version_is_made_once_and_says_what_the_model_is(desk: Desk) -> None:
    training = desk.train(losses(1.0, 0.02, 1))
    tracker = Tracker(desk.config(), desk.store, "key", {})
    for _ in range(2):
        found = register(tracker, training.train.fingerprint, None)
        assert found is not None and (found.name, found.version, found.decision) == ("sana-video-demo", "1", None)
    assert len(desk.client.search_model_versions("name = 'sana-video-demo'")) == 1
    version = desk.client.get_model_version("sana-video-demo", "1")
    tags = version.tags
    assert (tags["sana.fingerprint"], tags["sana.method"], tags["sana.base"]) == (
        training.train.fingerprint,
        "full",
        "base-1",
    )
    assert float(tags["sana.eval_loss"]) == pytest.approx(np.mean(list(losses(1.0, 0.02, 1).values())))
    assert {"sana.data", "sana.eval_list", "sana.trajectory", "sana.step", "sana.uri"} <= set(tags)
    assert version.source == tags["sana.uri"] == desk.store.uri(training.train.key)
    with pytest.raises(Exception, match="alias champion not found"):
        desk.client.get_model_version_by_alias("sana-video-demo", CHAMPION)


def test_the_alias_is_considered_at_the_end_of_a_run_if_the_config_says_so(desk: Desk) -> None:
    training = desk.train(losses(1.0, 0.02, 1))
    config = desk.config("tracking.promote=true", "tracking.registered_model=cats")
    found = register(Tracker(config, desk.store, "key", {}), training.train.fingerprint, None)
    assert found is not None and found.said() == "cats version 1 is champion now: it is the first: there is no champion"


def test_two_processes_at_once_make_one_version_each_and_the_best_is_champion(desk: Desk) -> None:
    """Both beat the champion, and one of them the other: whoever comes last is compared with who came first."""
    champion = desk.train(losses(1.0, 0.01, 1))
    desk.promote(champion)
    good, best = desk.train(losses(0.9, 0.01, 2)), desk.train(losses(0.8, 0.01, 3))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(desk.promote, [best, good, best, good]))
    assert desk.champion() == best.train.fingerprint
    versions = desk.client.search_model_versions("name = 'model'")
    assert sorted(version.tags["sana.fingerprint"] for version in versions) == sorted(
        training.train.fingerprint for training in (champion, good, best)
    )


def test_who_moves_the_alias_meanwhile_is_compared_with(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, which no lock of this one holds, makes a better one champion after we decided."""
    champion, good, best = (desk.train(losses(mean, 0.01, 4)) for mean in (1.0, 0.9, 0.8))
    desk.promote(champion)
    desk.registry().register(candidate_of(desk.store, best.train.fingerprint), None)
    decide, calls = Registry.decide, []

    def slowly(self: Registry, candidate: object) -> object:
        decided = decide(self, candidate)  # type: ignore[arg-type]
        if not calls:
            desk.client.set_registered_model_alias("model", CHAMPION, "2")
        calls.append(decided)
        return decided

    monkeypatch.setattr(Registry, "decide", slowly)
    found = desk.promote(good)
    assert len(calls) == 2 and found.decision is not None and not found.decision.moves
    assert desk.champion() == best.train.fingerprint


def test_who_moves_the_alias_at_the_same_moment_is_compared_with(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine decided as we did, and its move comes right after ours: the better of the two has the alias."""
    champion, good, best = (desk.train(losses(mean, 0.01, 4)) for mean in (1.0, 0.9, 0.8))
    desk.promote(champion)
    desk.registry().register(candidate_of(desk.store, good.train.fingerprint), None)
    move, calls = MlflowClient.set_registered_model_alias, []

    def beside_another(self: MlflowClient, name: str, alias: str, version: str) -> None:
        move(self, name, alias, version)
        if not calls:
            move(self, name, alias, "2")
        calls.append(version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", beside_another)
    found = desk.promote(best)
    assert len(calls) == 2 and found.champion == "3" and desk.champion() == best.train.fingerprint


def test_a_version_that_another_machine_made_and_deleted_is_no_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = desk.train(losses(1.0, 0.01, 1))
    create, delete = MlflowClient.create_model_version, MlflowClient.delete_model_version

    def twice(self: MlflowClient, *values: object, **named: object) -> object:
        create(self, *values, **named)  # type: ignore[arg-type]
        return create(self, *values, **named)  # type: ignore[arg-type]

    def too_late(self: MlflowClient, name: str, version: str) -> None:
        delete(self, name, version)
        delete(self, name, version)

    monkeypatch.setattr(MlflowClient, "create_model_version", twice)
    monkeypatch.setattr(MlflowClient, "delete_model_version", too_late)
    assert desk.promote(training).champion == "1"
    assert [one.version for one in desk.client.search_model_versions("name = 'model'")] == [1]


def test_mlflow_away_is_a_warning_in_a_run_and_an_error_of_the_command(
    desk: Desk, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    training = desk.train(losses(1.0, 0.02, 1))
    away = "tracking.uri=http://127.0.0.1:9"
    assert register(Tracker(desk.config(away), desk.store, "key", {}), training.train.fingerprint, None) is None
    assert "MLflow at http://127.0.0.1:9 does not work" in caplog.text
    code, _, error = command(desk, capsys, training.train.fingerprint, "-s", away)
    assert code == 75 and "MLflow at http://127.0.0.1:9 does not work: nothing runs there" in error


def command(desk: Desk, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    options = [part for option in desk.options for part in ("-s", option)]
    code = 0
    try:
        main(["promote", *arguments, "--config", "configs/demo.yaml", *options])
    except SystemExit as end:
        code = int(end.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first, worse = desk.train(losses(1.0, 0.02, 1)), desk.train(losses(1.2, 0.02, 2))
    code, told, _ = command(desk, capsys, first.train.fingerprint, "--dry-run")
    assert code == 0 and "would be champion: it is the first" in told
    assert not desk.client.search_registered_models()  # nothing was changed
    code, told, _ = command(desk, capsys, first.train.fingerprint[:8])
    assert code == 0 and "is champion" in told
    code, told, error = command(desk, capsys, worse.train.fingerprint, "--json")
    document = PromoteDocument.from_json(told, where="--json")
    assert code == 1 and not document.moved and document.champion == "1" and "is above" in error
    code, told, _ = command(desk, capsys, worse.train.fingerprint, "--force", "for a test")
    assert code == 0 and "forced: for a test" in told
    assert registered_name(replace_experiment(desk.config(), "a/b:c")) == "a-b-c"


def replace_experiment(config: Config, name: str) -> Config:
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": name})})


def test_the_page_of_a_trained_model_names_its_version(desk: Desk) -> None:
    client, training = desk.client, desk.train(losses(1.0, 0.02, 1))
    experiment = client.create_experiment("pages", artifact_location=str(desk.folder / "mlflow"))
    run_id = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment, "trained", run_id)
    client.set_tag(run_id, LOGGED_MODEL, model.model_id)
    for _ in range(2):
        desk.registry().register(candidate_of(desk.store, training.train.fingerprint), run_id)
        named = client.get_logged_model(model.model_id).tags["mlflow.modelVersions"]
        assert json.loads(named) == [{"name": "model", "version": "1"}]
