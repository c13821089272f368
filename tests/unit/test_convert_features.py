"""Conversion from SimpleTuner of what trains, how its loss weighs, what is validated and who is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.display.quickstart_reference import page
from sana.config.delivery.notifications import NotificationTarget
from sana.config.delivery.publish import PublishConfig
from sana.config.training.crepa import CosineWeight, CrepaConfig, PolynomialWeight
from sana.config.training.method import FullMethod, LoraMethod
from sana.config.training.objective import HuberConfig, MinSnrWeighting, NoiseOffset
from sana.config.training.rollout import RolloutConfig
from sana.convert.simpletuner import convert
from sana.convert.yaml_text import yaml_text
from sana.errors import ConfigError
from tests.pipeline_runs import ROOT
from tests.quickstart_files import CONFIG, QUICKSTART, accounted, converted, files, video

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, FullMethod()),
        ({"model_type": "full", "lora_rank": 8}, FullMethod()),
        ({"model_type": "lora"}, LoraMethod(rank=16, dropout=0.1)),
        ({"model_type": "lora", "lora_rank": 64, "lora_alpha": 32, "lora_dropout": 0.0},
         LoraMethod(rank=64, alpha=32.0)),
        ({"model_type": "lora", "lora_type": "standard", "use_dora": True}, LoraMethod(dropout=0.1, use_dora=True)),
        ({"model_type": "lora", "lora_type": "lycoris", "lycoris_config": "config/lycoris.json"},
         LoraMethod(dropout=0.1)),
    ],
)  # fmt: skip
def test_what_trains(tmp_path: Path, changes: dict[str, Any], method: FullMethod | LoraMethod) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.train.method == method
    assert set(changes) <= accounted(conversion) and not conversion.unknown


def test_an_unknown_method_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_type is 'controlnet', neither full nor lora"):
        convert(*files(tmp_path, {"model_type": "controlnet"}))


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"loss_type": "huber", "huber_c": 0.3}, "objective", HuberConfig(delta=0.3)),
        ({"loss_type": "smooth_l1"}, "objective", HuberConfig(delta=0.1)),
        ({"snr_gamma": 5.0}, "loss_weighting", MinSnrWeighting(gamma=5.0)),
        ({"offset_noise": True}, "noise_offset", NoiseOffset(strength=0.1, probability=0.25)),
        ({"offset_noise": True, "noise_offset": 0.05, "noise_offset_probability": 1.0}, "noise_offset",
         NoiseOffset(strength=0.05)),
        ({"noise_offset": 0.05, "snr_gamma": 0, "loss_type": "l2"}, "noise_offset", None),
    ],
)  # fmt: skip
def test_how_errors_weigh(tmp_path: Path, changes: dict[str, Any], name: str, value: Any) -> None:
    config, conversion = converted(tmp_path, changes)
    assert getattr(config.train, name) == value
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("changes", "expected"),  # every, at_start, weights, buckets
    [
        ({}, (200, False, "ema", ())),
        ({"validation_step_interval": None, "validation_steps": 50}, (50, False, "ema", ())),
        ({"validation_disable": True, "validation_on_startup": True}, (0, False, "ema", ())),
        ({"validation_on_startup": True, "ema_validation": "comparison"}, (200, True, "both", ())),
        ({"use_ema": False}, (200, False, "live", ())),
        ({"validation_resolution": "832x480,480x832, 832x480"},
         (200, False, "ema", ("81x480x832", "81x832x480"))),
    ],
)  # fmt: skip
def test_videos_while_training(tmp_path: Path, changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    config, conversion = converted(tmp_path, changes)
    found = config.train.validation
    assert (found.every, found.at_start, found.weights, found.buckets) == expected
    assert {key for key, value in changes.items() if value is not None} <= accounted(conversion)
    assert config.train.resources.eval_every == changes.get("validation_steps", 200)


@pytest.mark.parametrize(
    ("changes", "every"),
    [
        ({"validation_preview": True}, 1),
        ({"validation_preview": True, "validation_preview_steps": 10}, 10),
        ({"validation_preview": True, "validation_preview_steps": 0}, 1),
        ({"validation_preview": False, "validation_preview_steps": 10}, 0),
        ({"validation_preview_steps": 10}, 0),
    ],
)
def test_previews(tmp_path: Path, changes: dict[str, Any], every: int) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.train.validation.preview_every == every
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("changes", "base_weights", "dropout"),
    [
        ({"model_type": "full", "base_model_precision": "int8-torchao"}, "plain", None),
        ({"model_type": "lora", "base_model_precision": "no_change", "quantize_via": "cpu"}, "plain", 0.1),
        ({"model_type": "lora", "base_model_precision": "int8-quanto"}, "int8", 0.1),
        ({"model_type": "lora", "base_model_precision": "nf4-bnb"}, "int8", 0.1),
        ({"model_type": "lora", "base_model_precision": "fp8wo-torchao"}, "fp8", 0.1),
        ({"model_type": "lora", "base_model_precision": "int8-torchao", "enable_group_offload": True,
          "optimizer": "adafactor"}, "plain", 0.0),
    ],
)  # fmt: skip
def test_what_stays_is_stored_in_8_bits_beside_an_adapter(
    tmp_path: Path, changes: dict[str, Any], base_weights: str, dropout: float | None
) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.train.base_weights == base_weights
    assert getattr(config.train.method, "dropout", None) == dropout
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("changes", "crepa", "encoder"),
    [
        ({"crepa_enabled": True}, CrepaConfig(), "facebook/dinov2-giant"),
        ({"crepa_block_index": 8}, None, "facebook/dinov2-giant"),
        ({"crepa_enabled": "true", "crepa_block_index": 8, "crepa_lambda": 0.3, "crepa_adjacent_tau": 2.0,
          "crepa_adjacent_distance": 2, "crepa_cumulative_neighbors": True, "crepa_cutoff_step": 100,
          "crepa_encoder": "dinov2_vitb14", "crepa_drop_vae_encoder": True, "crepa_encoder_image_size": 518},
         CrepaConfig(block_index=8, weight=0.3, temporal_decay=2.0, adjacent_distance=2, cumulative_neighbors=True,
                     cutoff_step=100), "facebook/dinov2-base"),
        ({"crepa_enabled": True, "crepa_scheduler": "cosine", "crepa_warmup_steps": 10, "crepa_lambda_end": 0.1},
         CrepaConfig(schedule=CosineWeight(warmup_steps=10, decay_steps=400_000, end_weight=0.1)),
         "facebook/dinov2-giant"),
        ({"crepa_enabled": True, "crepa_scheduler": "polynomial", "crepa_decay_steps": 50, "crepa_power": 2.0},
         CrepaConfig(schedule=PolynomialWeight(decay_steps=50, power=2.0)), "facebook/dinov2-giant"),
    ],
)  # fmt: skip
def test_crepa(tmp_path: Path, changes: dict[str, Any], crepa: CrepaConfig | None, encoder: str) -> None:
    config, conversion = converted(tmp_path, changes)
    assert (config.train.crepa, config.encode_features.encoder) == (crepa, encoder)
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("changes", "rollout"),
    [
        ({"scheduled_sampling_max_step_offset": 0, "scheduled_sampling_probability": 1.0}, None),
        ({"scheduled_sampling_max_step_offset": 10}, None),
        ({"scheduled_sampling_max_step_offset": 10, "scheduled_sampling_probability": 0.5,
          "scheduled_sampling_sampler": "unipc", "scheduled_sampling_order": 2, "scheduled_sampling_prob_end": 0.9},
         RolloutConfig(max_step_offset=10, probability_start=0.5, probability_end=0.5, sampler="dpm")),
        ({"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 1.0,
          "scheduled_sampling_prob_start": 0.1, "scheduled_sampling_prob_end": 0.4,
          "scheduled_sampling_ramp_steps": 100, "scheduled_sampling_start_step": 20,
          "scheduled_sampling_ramp_shape": "cosine", "scheduled_sampling_strategy": "biased_late",
          "scheduled_sampling_sampler": "euler", "scheduled_sampling_reflexflow": True},
         RolloutConfig(max_step_offset=5, probability_start=0.1, probability_end=0.4, ramp_steps=100, start_step=20,
                       ramp_shape="cosine", strategy="biased_late")),
    ],
)  # fmt: skip
def test_scheduled_sampling(tmp_path: Path, changes: dict[str, Any], rollout: RolloutConfig | None) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.train.rollout == rollout
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("changes", "publish"),
    [
        ({"push_to_hub": False, "hub_model_id": "me/model"}, None),
        ({"push_to_hub": True, "hub_model_id": "model"}, None),
        ({"push_to_hub": True, "hub_model_id": "me/model"}, PublishConfig(to="hf://me/model")),
        ({"push_to_hub": True, "hub_model_id": "me/model", "push_checkpoints_to_hub": True,
          "model_card_private": False, "model_card_note": "A note."},
         PublishConfig(to="hf://me/model", what="checkpoints", private=False, description="A note.")),
    ],
)  # fmt: skip
def test_publishing(tmp_path: Path, changes: dict[str, Any], publish: PublishConfig | None) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.publish == publish
    assert set(changes) <= accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize(
    ("folder", "linked", "masks", "probability"),
    [
        ("datasets/disney-black-and-white/masks", "the-masks", "masks", 0.5),
        ("datasets/other", "the-masks", None, None),  # outside of the source
        ("datasets/disney-black-and-white/masks", "another", None, None),
        ("datasets/disney-black-and-white/masks", None, None, None),
    ],
)
def test_masks(tmp_path: Path, folder: str, linked: str | None, masks: str | None, probability: float | None) -> None:
    entry = {"id": "the-masks", "type": "local", "dataset_type": "conditioning", "conditioning_type": "mask",
             "instance_data_dir": folder}  # fmt: skip
    backends = [video(conditioning_data=linked, instance_data_dir="datasets/disney-black-and-white"), entry]
    config, conversion = converted(tmp_path, {"masked_loss_probability": 0.5}, backends)
    found = config.download.datasets[0].masks
    assert (found.folder if found else None) == masks
    assert (config.train.masked_loss.probability if config.train.masked_loss else None) == probability
    assert "masked_loss_probability" in accounted(conversion) and not conversion.unknown


@pytest.mark.parametrize("in_a_file", [True, False])
def test_webhooks_keep_their_addresses_to_themselves(tmp_path: Path, in_a_file: bool) -> None:
    secret = "https://discord.com/api/webhooks/1234567890/abcdefghijklmnop"
    hooks = [
        {"webhook_type": "discord", "webhook_url": secret, "log_level": "critical"},
        {"webhook_type": "raw", "callback_url": "https://example.com/hook", "auth_token": "s3cr3t-t0ken"},
    ]
    (tmp_path / "webhook.json").write_text(json.dumps(hooks))
    given = "config/webhook.json" if in_a_file else hooks
    config, conversion = converted(tmp_path, {"webhook_config": given, "webhook_reporting_interval": 10})
    assert config.notifications.targets == (
        NotificationTarget(kind="apprise", url_env="SANA_WEBHOOK", min_level="error"),
        NotificationTarget(kind="webhook", url_env="SANA_WEBHOOK_2", secret_env="SANA_WEBHOOK_2_SECRET"),
    )
    assert {"webhook_config", "webhook_reporting_interval"} <= accounted(conversion)
    assert "set SANA_WEBHOOK, SANA_WEBHOOK_2" in " ".join(conversion.notes)
    said = yaml_text(conversion, title="t") + repr(conversion)
    assert secret not in said and "s3cr3t" not in said and "example.com" not in said


@pytest.mark.parametrize("given", ["missing.json", [1]])
def test_a_wrong_webhook_file_is_one_line(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match="webhook"):
        converted(tmp_path, {"webhook_config": given})


TRACKERS: list[tuple[Any, list[str], str]] = [  # report_to, who is told beside MLflow, who is said not to be
    ("wandb", ["wandb"], ""),
    ("tensorboard", ["tensorboard"], ""),
    ("wandb,tensorboard", ["wandb", "tensorboard"], ""),
    (" TensorBoard , WANDB ", ["wandb", "tensorboard"], ""),
    (["tensorboard", "wandb"], ["wandb", "tensorboard"], ""),
    ("all", ["wandb", "tensorboard"], ""),
    ("wandb,wandb", ["wandb"], ""),
    ("none", [], ""),
    (None, [], ""),
    ("", [], ""),
    ("comet_ml", [], "comet_ml"),
    ("wandb,comet_ml,swanlab", ["wandb"], "comet_ml, swanlab"),
]


@pytest.mark.parametrize(("given", "told", "left"), TRACKERS)
def test_trackers(tmp_path: Path, given: Any, told: list[str], left: str) -> None:
    config, conversion = converted(tmp_path, {"report_to": given, "tracker_run_name": "cats {1}"})
    assert [one.kind for one in config.tracking.also] == told
    notes = [note for note in conversion.notes if note.startswith("report_to ")]
    assert len(notes) == bool(left) and all(note.startswith(f"report_to {left} is not told") for note in notes)
    assert config.tracking.run_name == "cats {{1}}"


def test_the_page_of_keys_is_what_the_conversion_says() -> None:
    written = (ROOT / "docs/quickstart-keys.md").read_text(encoding="utf-8")
    assert written == page(), "python -m flows.display.quickstart_reference > docs/quickstart-keys.md"
    shown = set(re.findall(r"^\| ([^|]+?) \|", written, re.MULTILINE))
    named = {name for cell in shown for name in cell.split(", ")}
    assert set(CONFIG) | set(json.loads((QUICKSTART / "features.json").read_text())) <= named
