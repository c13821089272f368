"""Evaluated on request: a checkpoint and an exported model, once, with the numbers that the evaluate stage gives."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli.main import main
from sana.comparison import evaluating
from sana.comparison.evaluating import EvalSet, export_digest
from sana.comparison.lineage import Lineage
from sana.comparison.subjects import Subject, exported_subject
from sana.context import Context
from sana.errors import ConfigError, SanaError
from sana.facts import TrainFacts
from sana.maintenance.verify import verify
from sana.runs.compared import find_subject
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow(group="exports")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Place, Outcome]:
    place = new_place(tmp_path_factory.mktemp("compared"), tiny_model)
    with inline_workers():
        return place, run_stages(place.context(), last="evaluate")


def evaluated(place: Place, outcome: Outcome, subject: Subject, *overrides: str) -> Subject:
    context = place.context(*overrides)
    eval_set = EvalSet(outcome.artifacts["encode_latents"], outcome.artifacts["encode_captions"])
    with inline_workers():
        found = evaluating.evaluate(evaluating.missing(context, subject, eval_set), eval_set, Lineage(context.store))
    return replace(subject, evaluations=(found,))


def losses_of(subject: Subject) -> np.ndarray:
    return subject.evaluations[0].losses.losses


def exported(context: Context, folder: Path) -> Subject:
    digest = export_digest(folder, work_dir=context.work_dir, read_only=False)
    return exported_subject(str(folder), Lineage(context.store), str(folder), digest)


def model_folder(context: Context, outcome: Outcome) -> Path:
    folder = context.store.local_path(TrainFacts.of(outcome.artifacts["train"]).model)
    assert folder is not None
    return folder


def test_an_exported_model_has_the_losses_of_what_was_trained(trained: tuple[Place, Outcome]) -> None:
    place, outcome = trained
    context = place.context()
    subject = exported(context, model_folder(context, outcome))
    assert not subject.evaluations
    found = evaluated(place, outcome, subject)
    whole = find_subject(outcome.artifacts["train"].fingerprint, Lineage(context.store), "ema")
    assert np.array_equal(losses_of(found), losses_of(whole))
    assert exported(context, model_folder(context, outcome)).evaluations  # found again by its digest
    health = verify(context.store, deep=True)
    assert not health.problems


def test_a_checkpoint_is_evaluated_once(trained: tuple[Place, Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    place, outcome = trained
    context = place.context()
    name = f"{outcome.artifacts['train'].fingerprint}@4"
    before = find_subject(name, Lineage(context.store), "live")
    assert not before.evaluations
    found = evaluated(place, outcome, before)
    assert losses_of(found).shape == losses_of(find_subject(name, Lineage(context.store), "live")).shape
    monkeypatch.setattr(evaluating, "files_of_worker", lambda *_: pytest.fail("it was computed again"))
    assert np.array_equal(losses_of(evaluated(place, outcome, before)), losses_of(found))
    assert not find_subject(name, Lineage(context.store), "ema").evaluations  # other weights


def test_the_base_model_has_the_losses_of_before_training(trained: tuple[Place, Outcome], tiny_model: Path) -> None:
    place, outcome = trained
    context = place.context()
    before = find_subject(f"{outcome.artifacts['train'].fingerprint}@0", Lineage(context.store), "ema")
    found = evaluated(place, outcome, exported(context, tiny_model))
    assert np.array_equal(losses_of(found), losses_of(before))


def test_the_command_says_what_it_costs_before(
    trained: tuple[Place, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, outcome = trained
    config = tmp_path / "own.json"
    config.write_text(json.dumps(place.config().model_dump(mode="json")))
    config = config.rename(tmp_path / "own.yaml")
    fingerprint = outcome.artifacts["train"].fingerprint
    arguments = ["compare", fingerprint, f"{fingerprint}@2", "--config", str(config)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "was never evaluated; --evaluate does it: " in told and "at 3 noise levels by one set of weights" in told
    with inline_workers():
        main([*arguments, "--evaluate"])
    told = capsys.readouterr()
    assert f"evaluating {fingerprint}@2: " in told.err and "its eval loss is" in told.out


def test_what_cannot_be_evaluated_is_an_error(trained: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, outcome = trained
    context = place.context()
    with pytest.raises(ConfigError, match="is no exported model"):
        export_digest(tmp_path, work_dir=context.work_dir, read_only=False)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holds an adapter, and train\.method of the config is full"):
        evaluated(place, outcome, exported(context, tmp_path))
    other = replace(find_subject(f"{outcome.artifacts['train'].fingerprint}@2", Lineage(context.store), "ema"))
    elsewhere = place.context(f"root={tmp_path}/other")
    with pytest.raises(SanaError, match="a checkpoint is evaluated in its own root"):
        evaluating.missing(elsewhere, other, EvalSet(outcome.artifacts["encode_latents"], outcome.artifacts["train"]))
