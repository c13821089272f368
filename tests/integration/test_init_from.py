"""Training that starts from an earlier run: its weights, its optimizer if asked, and what cannot be started from."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sana.artifact import Draft, Recipe
from sana.context import Context
from sana.counts import Counts
from sana.errors import ConfigError, SanaError
from sana.facts import TrainFacts
from sana.runtime.launcher import result_path
from sana.runtime.results import TrainResult
from sana.runtime.specs import CheckpointName, InitialWeights
from sana.stages.bodies.initial_weights import find_initial_weights
from sana.stages.train import recipe, trajectory_of
from sana.training.checkpoints.checkpoint import index_key, remove_checkpoint
from sana.training.checkpoints.checkpoint_io import load
from sana.training.initial_weights import load_initial_optimizer, load_initial_weights
from sana.training.schedules import learning_rate_at
from tests.training_lab import Lab
from tests.training_store import train_config

pytestmark = pytest.mark.timeout(240)


def initial(lab: Lab, run: str, step: int, which: Any, *, optimizer: bool = False) -> InitialWeights:
    return InitialWeights(CheckpointName(lab.key(run), step), None, which, optimizer)


def test_a_run_begins_where_an_earlier_one_was(lab: Lab) -> None:
    first = lab.train("first", max_steps=3, eval_every=3)
    after = lab.rows(first)[-1]
    for which in ("live", "ema"):
        second = lab.train(which, max_steps=2, eval_every=2, initial=initial(lab, "first", 3, which))
        before = lab.rows(second)[0]
        assert before["step"] == 0
        assert before["eval/loss_live"] == before["eval/loss_ema"] == after[f"eval/loss_{which}"]


def test_the_optimizer_goes_on_from_its_step(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Against AdamW by hand: its bias corrections are those of step 4 + 1; a resumed run is the same run."""
    first = lab.train("first", max_steps=4)
    settings = {"initial": initial(lab, "first", 4, "live", optimizer=True), "max_steps": 1}
    job = lab.job("second", **settings)
    second = lab.train("second", **settings)
    config = job.config.train
    rate, adamw = learning_rate_at(0, config), config.optimizer
    old, new = (load(lab.store, checkpoint, "optimizer") for checkpoint in (first, second))
    start, end = (load(lab.store, checkpoint, "weights") for checkpoint in (first, second))
    for name, weight in start.items():
        mean, square = new[f"{name}.exp_avg"].double(), new[f"{name}.exp_avg_sq"].double()
        gradient = (mean - adamw.beta1 * old[f"{name}.exp_avg"]) / (1 - adamw.beta1)
        expected = adamw.beta2 * old[f"{name}.exp_avg_sq"].double() + (1 - adamw.beta2) * gradient**2
        torch.testing.assert_close(square, expected, rtol=1e-3, atol=1e-12)
        corrected = (square / (1 - adamw.beta2**5)).sqrt() + adamw.epsilon
        step = rate * mean / (1 - adamw.beta1**5) / corrected
        torch.testing.assert_close(end[name].double(), weight.double() - step, rtol=1e-5, atol=1e-7)
    assert second.optimizer_steps_before == 4

    straight = lab.train("straight", **{**settings, "max_steps": 3})
    lab.assert_same(straight, lab.train("second", **{**settings, "max_steps": 3}))
    third = initial(lab, "second", 3, "live", optimizer=True)
    needed = load(lab.store, straight, "optimizer")
    assert load_initial_optimizer(lab.store, third, needed).num_steps == 7
    assert "rounded" not in caplog.text
    load_initial_optimizer(lab.store, third, {name: tensor.bfloat16() for name, tensor in needed.items()})
    assert "train.init_optimizer: the state of that run is rounded, torch.float32 to torch.bfloat16" in caplog.text


def test_what_does_not_fit_is_named(lab: Lab) -> None:
    saved = lab.train("first", max_steps=1)
    start = initial(lab, "first", 1, "live", optimizer=True)
    weights, moments = load(lab.store, saved, "weights"), load(lab.store, saved, "optimizer")
    name = min(weights)
    with pytest.raises(SanaError, match=rf"step 1 of .* does not fit .*{name} \[.*\], needed \[1, 2\]"):
        load_initial_weights(lab.store, start, {**weights, name: torch.empty(1, 2)})
    with pytest.raises(SanaError, match="extra none, needed \\[3\\]"):
        load_initial_weights(lab.store, start, {**weights, "extra": torch.empty(3)})
    row = {key.replace("exp_avg_sq", "row"): tensor for key, tensor in moments.items()}
    with pytest.raises(SanaError, match=r"the optimizer of step 1.*exp_avg_sq \[.*, needed none.* more; name a run"):
        load_initial_optimizer(lab.store, start, row)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_weights": "live"}, "which is unset; set init_from"),
        ({"init_optimizer": True}, "which is unset; set init_from"),
        ({"init_from": "0" * 16, "init_optimizer": True}, "set init_weights: live"),
        ({"init_from": "./model", "init_weights": "live"}, "is a folder, which has one set of weights"),
    ],
)
def test_conflicts_are_found_at_load(lab: Lab, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(lab.encoded, lab.folder, lab.model, **settings)


def test_what_init_from_names_is_found_when_planning_and_hashed_by_its_digest(lab: Lab, tmp_path: Path) -> None:
    lab.train("run", max_steps=2, checkpoint_every=1)
    trajectory = lab.key("run")
    draft = Draft(lab.store, Recipe("train", 1, {"of": trajectory}, {}))
    facts = TrainFacts(trajectory, 2, f"train/{trajectory}", (), "train/x/model")
    made = draft.commit(content={"weights": "w"}, counts=Counts.all_kept(1), facts=facts)

    def context(**settings: Any) -> Context:
        return Context(train_config(lab.encoded, tmp_path, lab.model, **settings), lab.store, tmp_path)

    def planned(**settings: Any) -> Recipe:
        inputs = {"latents": lab.encoded.latents, "texts": lab.encoded.captions}
        return recipe(context(**settings), inputs)

    def named(text: str) -> InitialWeights:
        found = find_initial_weights(context(init_from=text))
        assert found is not None
        return found.weights

    assert named(made.fingerprint).checkpoint == CheckpointName(trajectory, 2)
    assert named(f"{made.fingerprint}@1").checkpoint == CheckpointName(trajectory, 1)
    plain, one, two = planned(), planned(init_from=f"{made.fingerprint}@1"), planned(init_from=made.fingerprint)
    assert "init_from" not in plain.inputs | plain.config and plain.config == one.config == two.config
    assert two == planned(init_from=f"{made.fingerprint}@2")  # the same thing by another name
    live = planned(init_from=made.fingerprint, init_weights="live")
    assert len({trajectory_of(made) for made in (plain, one, two, live)}) == 4

    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(lab.model / "transformer", folder / "transformer")
    a, b = (planned(init_from=str(folder)) for folder in folders)
    assert a == b and a.inputs["init_from"] not in (one.inputs["init_from"], two.inputs["init_from"])
    with pytest.raises(ConfigError, match="has no checkpoint of step 9 of that run, but of 1, 2; write one"):
        planned(init_from=f"{made.fingerprint}@9")
    with pytest.raises(ConfigError, match="no training of that fingerprint"):
        planned(init_from="0" * 16)
    with pytest.raises(ConfigError, match="holds no transformer/config.json: name a folder in diffusers layout"):
        planned(init_from=str(tmp_path / "nowhere"))

    # a run that has a checkpoint of its own goes on, though what it started from is pruned; another cannot begin
    lab.store.put_if_absent(index_key(trajectory_of(one), 1), lab.store.read(index_key(trajectory, 1)))
    remove_checkpoint(lab.store, trajectory, 1)
    assert planned(init_from=f"{made.fingerprint}@1") == one
    with pytest.raises(ConfigError, match="has no checkpoint of step 1 of that run, but of 2; write one"):
        planned(init_from=f"{made.fingerprint}@1", init_weights="live")


def test_a_folder_is_started_from(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.model, tmp_path / "model")
    start = InitialWeights(None, str(tmp_path / "model"), "ema", optimizer=False)
    lab.assert_same(lab.train("base", max_steps=1), lab.train("folder", max_steps=1, initial=start))


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("prodigy", marks=pytest.mark.slow(group="numbers"))])
def test_nothing_is_read_to_be_replaced(lab: Lab, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """Neither the base model nor what was started from, where a run resumes; nor the base where another run's come."""
    settings: dict[str, Any] = {"optimizer": {"name": optimizer}, "checkpoint_every": 2}
    if optimizer == "prodigy":
        pytest.importorskip("pytorch_optimizer")
        settings["learning_rate"] = 1.0
    lab.train("first", max_steps=2, **settings)
    start = initial(lab, "first", 2, "live", optimizer=True)
    straight = lab.train("straight", max_steps=6, initial=start, **settings)
    plain = lab.train("plain-straight", max_steps=6, **settings)
    lab.train("plain", max_steps=4, **settings)
    monkeypatch.setattr("sana.training.initial_weights.load_transformer", None)
    lab.train("second", max_steps=4, initial=start, **settings)
    remove_checkpoint(lab.store, lab.key("first"), 2)
    lab.assert_same(straight, lab.train("second", max_steps=6, initial=start, **settings))
    assert lab.at("second", 6).optimizer_steps_before == 2
    lab.assert_same(plain, lab.train("plain", max_steps=6, **settings))


def test_a_run_of_which_no_checkpoint_is_whole_begins_again(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    straight = lab.train("straight", max_steps=4, checkpoint_every=2)
    lab.train("damaged", max_steps=4, checkpoint_every=2)
    for step in (2, 4):
        os.truncate(lab.path(lab.at("damaged", step).files["ema.safetensors"].key), 99)
    lab.assert_same(straight, lab.train("damaged", max_steps=4, checkpoint_every=2))
    assert caplog.text.count("is removed, an older one is used") == 2


LORA: dict[str, Any] = {"method": {"name": "lora", "rank": 2}}


def test_an_adapter_begins_with_an_adapter_and_weights_with_weights(lab: Lab, tmp_path: Path) -> None:
    """A run of the other method is told before anything runs, with the nearest that works; so is a folder."""
    lab.train("adapter", max_steps=1, **LORA)
    made = {}
    for method in ("full", "lora"):
        settings = {"of": method} | ({} if method == "full" else {"method": {"name": "lora", "rank": 2}})
        draft = Draft(lab.store, Recipe("train", 1, settings, {}))
        facts = TrainFacts(lab.key("adapter"), 1, "train/x", (), "train/x/model")
        made[method] = draft.commit(content={"weights": method}, counts=Counts.all_kept(1), facts=facts).fingerprint
    exported = lab.folder / "exported"
    exported.mkdir()
    result = TrainResult.load(result_path(lab.last_job), repair_hint="")
    shutil.copy(lab.path(result.files["model/pytorch_lora_weights.safetensors"].key), exported)

    def find(init_from: str, **settings: Any) -> InitialWeights:
        config = train_config(lab.encoded, tmp_path, lab.model, init_from=init_from, **settings)
        found = find_initial_weights(Context(config, lab.store, tmp_path))
        assert found is not None
        return found.weights

    assert find(made["lora"], **LORA).checkpoint == CheckpointName(lab.key("adapter"), 1)
    assert find(str(exported), **LORA).path == str(exported)
    for init_from, settings, says in (
        (made["full"], LORA, "is a training of method full, and train.method is lora.*set model.path to that folder"),
        (made["lora"], {}, "is a training of method lora, and train.method is full.*sana lora merge"),
        (str(exported), {}, "holds an adapter.*sana lora merge"),
        (str(lab.model), LORA, "holds no pytorch_lora_weights.safetensors.*set model.path to their folder"),
    ):
        with pytest.raises(ConfigError, match=says):
            find(init_from, **settings)

    start = InitialWeights(None, str(exported), "ema", optimizer=False)
    again = lab.train("again", max_steps=1, eval_every=1, initial=start, **LORA)
    first = lab.train("adapter", max_steps=2, eval_every=1, **LORA)
    assert lab.rows(again)[0]["eval/loss_live"] == lab.rows(first)[1]["eval/loss_ema"]
    other = {"method": {"name": "lora", "rank": 2, "alpha": 8}}
    with pytest.raises(SanaError, match="has alpha 2 and rank 2, and train.method has alpha 8 and rank 2"):
        lab.train("other", max_steps=1, initial=start, **other)
    with pytest.raises(SanaError, match=r"lora_A.weight.*\[2, 24\], needed \[4, 24\]"):
        lab.train("larger", max_steps=1, initial=start, method={"name": "lora", "rank": 4})
