"""Sections chosen by name, and old names: what a user types, and what the answer says."""

from pathlib import Path

import pytest

from sana.config import renamed_keys
from sana.config.load import check, load_config
from sana.config.training.optimization.optimizer import AdamWConfig
from sana.config.training.optimization.schedule import ConstantSchedule, CosineSchedule
from sana.errors import ConfigError
from tasks.tracking import values as tracking_values
from tests.config_keys import dotted

COSINE = "train.lr_schedule.name=cosine"
DEMO = Path(__file__).parents[2] / "configs/demo.yaml"


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, overrides)
    return str(caught.value)


def test_without_a_name_the_first_member_is_meant() -> None:
    assert load_config(DEMO, ["train.lr_schedule.warmup_steps=7"]).train.lr_schedule == ConstantSchedule(warmup_steps=7)
    cosine = load_config(DEMO, ["train.lr_schedule.name=cosine", "train.lr_schedule.decay_steps=50"]).train
    assert cosine.lr_schedule == CosineSchedule(warmup_steps=5, decay_steps=50)
    assert load_config(DEMO, ["train.optimizer.name=adamw"]).train.optimizer == AdamWConfig()
    assert load_config(DEMO, ["train.timestep_sampling={}"]).train.timestep_sampling.name == "logit_normal"


def test_the_name_is_hashed_and_a_neutral_choice_is_not() -> None:
    train = load_config(DEMO).train
    hashed = train.hashed()
    assert hashed["lr_schedule"] == {"name": "constant", "warmup_steps": 5}
    assert hashed["optimizer"]["name"] == "adamw" and hashed["timestep_sampling"]["shift"] == 3.0
    assert not {"objective", "text_padding"} & set(hashed)
    assert load_config(DEMO, ["train.text_padding=fixed"]).train.hashed() == {**hashed, "text_padding": "fixed"}
    uniform = load_config(DEMO, ["train.timestep_sampling={name: uniform}"]).train
    assert uniform.hashed()["timestep_sampling"] == {"name": "uniform", "shift": 3.0}
    assert check(load_config(DEMO).model_dump(mode="json"), where="a job") == load_config(DEMO)


def test_keys_of_another_member_are_named_with_what_to_do() -> None:
    told = message("train.timestep_sampling={std: 2, shift: 4}", "train.timestep_sampling.name=checkpoint")
    assert "2 mistakes" in told
    for key in ("std: no setting of checkpoint, but of logit_normal", "shift: no setting of checkpoint, but of"):
        assert f"train.timestep_sampling.{key}" in told
    assert "-s 'train.timestep_sampling={name: checkpoint}'" in told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.warmup_steps=5", "train.warmup_steps: is now train.lr_schedule.warmup_steps"),
        ("train.sigma.policy=uniform", "train.sigma.policy: is now train.timestep_sampling.name"),
        (
            "encode_latents.vae_dtype=fp32",
            "encode_latents.vae_dtype: is now encode_latents.vae_precision, and its fp32 is now tf32",
        ),
        ("encode_latents.vae_dtype=bf16", "encode_latents.vae_dtype: is now encode_latents.vae_precision"),
        ("train.beta1=0.8", "train.beta1: is now train.optimizer.beta1"),
        ("train.sigma={}", "train.sigma: is now train.timestep_sampling"),
        ("train.mixed_precision='no'", "train.mixed_precision: 'no' is now fp32"),
        ("train.mixed_precision=no", "train.mixed_precision: 'no' is now fp32"),
        ("train.mixed_precision=false", "train.mixed_precision: false is now fp32"),
        ("train.decay_steps=5", "train.decay_steps: is now train.lr_schedule.decay_steps, which needs -s " + COSINE),
        (
            "train.sigma={policy: uniform, shift: 2}",
            "train.sigma: is now train.timestep_sampling, and policy in it is name",
        ),
    ],
)
def test_an_old_name_says_the_new_one_and_nothing_else(override: str, told: str) -> None:
    assert message(override).splitlines()[1:] == [f"  {told}"]


def test_mistakes_below_an_old_name_show_as_well() -> None:
    told = message("train.sigma={policy: uniform, shift: -1, shfit: 2}", "train.schedule=cosine", "train.decay_steps=0")
    assert told.splitlines()[1:] == [
        "  train.schedule: is now train.lr_schedule.name",
        "  train.decay_steps: is now train.lr_schedule.decay_steps",
        "  train.sigma: is now train.timestep_sampling, and policy in it is name",
        "  train.lr_schedule.decay_steps: must be at least 1 (got 0)",
        "  train.timestep_sampling.shift: must be above 0 (got -1)",
        "  train.timestep_sampling.shfit: unknown key; did you mean shift?",
    ]


def test_an_old_name_is_found_in_every_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"download.datasets.*.place": "download.datasets.*.source"}
    monkeypatch.setattr(renamed_keys, "RENAMED_KEYS", new)
    told = message("download.datasets=[{id: a, place: x}, {id: b, source: y}, {id: c, place: z}]")
    assert told.splitlines()[1:] == [
        f"  download.datasets.{place}.place: is now download.datasets.{place}.source" for place in (0, 2)
    ]


def test_every_new_name_is_a_key_of_today() -> None:
    today = dotted()
    assert {*renamed_keys.RENAMED_KEYS.values(), *renamed_keys.RENAMED_VALUES} <= today
    assert not set(renamed_keys.RENAMED_KEYS) & today


@pytest.mark.parametrize(("value", "old"), [("tf32", "fp32"), ("fp32", "fp32_strict"), ("bf16", "bf16")])
def test_what_is_shown_of_hashed_settings_has_the_names_of_the_config(value: str, old: str) -> None:
    """In MLflow's params, of the pipeline and of a stage alike, and in why a stage runs again."""
    config = load_config(DEMO, [f"encode_latents.vae_precision={value}"])
    hashed = config.encode_latents.hashed()
    assert hashed["vae_dtype"] == old and "vae_precision" not in hashed
    shown = tracking_values.params(config, {"encode_latents": hashed, "train": config.train.hashed()})
    assert shown == {
        "encode_latents": {**{k: v for k, v in hashed.items() if k != "vae_dtype"}, "vae_precision": value},
        "train": config.train.hashed(),
    }
