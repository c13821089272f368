"""Conversion from SimpleTuner keeps the numbers of a run: its learning rates, its clipping, its optimizer."""

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers.optimization import get_polynomial_decay_schedule_with_warmup

from flows.cli.main import cli
from sana.config.load import check, load_config
from sana.config.section import Section
from sana.config.training.optimization.optimizer import (
    AdafactorConfig,
    AdamW8bitConfig,
    AdamWBf16Config,
    AdamWConfig,
    CameConfig,
    MuonConfig,
    OptimiAdamWConfig,
    ProdigyConfig,
)
from sana.config.yaml_reading import parse_yaml
from sana.convert.simpletuner import convert, faults_of
from sana.convert.yaml_text import yaml_text
from sana.errors import ConfigError
from sana.training.schedules import learning_rate_at
from tests.quickstart_files import accounted, all_keys, converted, files

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_converted_sine_is_the_wave_that_it_was(tmp_path: Path, processes: int) -> None:
    """SimpleTuner: lr_end + (lr - lr_end) (1 + sin(pi t / T0)) / 2, T0 = lr_warmup_steps; from its first peak on."""
    config, _ = converted(
        tmp_path,
        {"lr_scheduler": "sine", "lr_warmup_steps": 40, "lr_end": 1e-6, "learning_rate": 1e-4, "lr_num_cycles": 1,
         "num_processes": processes},
    )  # fmt: skip
    for step in range(20, 300):
        theirs = 1e-6 + (1e-4 - 1e-6) * (1 + math.sin(math.pi * (step + 1) / 40)) / 2
        assert learning_rate_at(step, config.train) == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_a_converted_polynomial_is_diffusers_own(tmp_path: Path) -> None:
    config, _ = converted(
        tmp_path,
        {"lr_scheduler": "polynomial", "lr_warmup_steps": 5, "lr_end": 1e-6, "lr_power": 0.8, "max_train_steps": 40},
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.train.learning_rate)
    theirs = get_polynomial_decay_schedule_with_warmup(optimizer, 5, 40, lr_end=1e-6, power=0.8).lr_lambdas[0]
    for step in range(60):
        expected = config.train.learning_rate * theirs(step + 1)
        assert learning_rate_at(step, config.train) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "kept", "expected"),  # (clipping, bound of the norm, bound of a value)
    [
        ({"max_grad_norm": 0.0, "grad_clip_method": "value"}, False, ("norm", 0.1, None)),
        ({"max_grad_norm": 0, "grad_clip_method": "norm"}, False, ("norm", 0.1, None)),
        ({"max_grad_norm": 0.0, "grad_clip_method": "value"}, True, ("none", 0.1, None)),
        ({"max_grad_norm": 0.0, "grad_clip_method": "norm"}, True, ("none", 0.1, None)),
        ({"max_grad_norm": 0.5, "grad_clip_method": "value"}, False, ("value", 0.1, 0.5)),
        ({"max_grad_norm": 0.5, "grad_clip_method": None}, False, ("value", 0.1, 0.5)),
        ({"max_grad_norm": 0.5, "grad_clip_method": "norm"}, True, ("norm", 0.5, None)),
        ({"max_grad_norm": None, "grad_clip_method": None}, False, ("norm", 0.1, None)),
        ({"max_grad_norm": None, "grad_clip_method": None}, True, ("value", 0.1, 2.0)),
    ],
)
def test_clipping(tmp_path: Path, changes: dict, kept: bool, expected: tuple) -> None:
    conversion = convert(*files(tmp_path, changes), keep_clipping=kept)
    values = parse_yaml(yaml_text(conversion, title="made"), where="made")
    train = check(values, where="made").train
    assert (train.gradient_clipping, train.max_grad_norm, train.max_grad_value) == expected
    assert {"max_grad_norm", "grad_clip_method"} & all_keys(changes, "") <= accounted(conversion)
    why = {setting.key: setting.why for setting in conversion.settings}
    turned_on = changes["max_grad_norm"] == 0 and not kept
    assert ("--keep-clipping" in why.get("train.max_grad_norm", "")) == turned_on
    assert any(fault.changes == "clipping" for fault in faults_of(conversion)) == turned_on


@pytest.mark.parametrize(
    ("changes", "optimizer", "weights"),
    [
        ({"optimizer": "adamw_bf16"}, AdamWBf16Config(), "bf16"),
        ({"optimizer": "adamw_bf16", "base_model_default_dtype": "fp32"}, AdamWBf16Config(), "fp32"),
        ({"optimizer": "adamw_bf16", "mixed_precision": "no"}, AdamWBf16Config(), "fp32"),
        ({"optimizer": "optimi-adamw", "optimizer_config": "eps=1e-6"}, OptimiAdamWConfig(epsilon=1e-6), "bf16"),
        ({"optimizer": "ao-adamw8bit", "optimizer_beta2": 0.99}, AdamW8bitConfig(beta2=0.99), "bf16"),
        ({"optimizer": "bnb-adamw8bit", "optimizer_config": "eps=1e-7"}, AdamW8bitConfig(epsilon=1e-7), "bf16"),
        ({"optimizer": "ao-adamw4bit"}, AdamW8bitConfig(), "bf16"),
        ({"optimizer": "bnb-adamw"}, AdamWConfig(), "fp32"),
        ({"optimizer": "adafactor", "optimizer_beta1": 0.5}, AdafactorConfig(), "fp32"),
        ({"optimizer": "prodigy", "optimizer_config": "d_coef=2,d0=1e-5,weight_decay=0.01"},
         ProdigyConfig(distance_factor=2.0, initial_distance=1e-5, weight_decay=0.01), "fp32"),
        ({"optimizer": "came"}, CameConfig(), "fp32"),
        ({"optimizer": "muon"}, MuonConfig(), "fp32"),
        ({"optimizer": "soap", "optimizer_config": "precondition_frequency=3"}, AdamWConfig(), "fp32"),
    ],
    ids=lambda value: value["optimizer"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_optimizers(tmp_path: Path, changes: dict, optimizer: Section, weights: str) -> None:
    config, conversion = converted(tmp_path, changes)
    assert (config.train.optimizer, config.train.weights_dtype) == (optimizer, weights)
    assert set(changes) <= accounted(conversion) and not conversion.unknown
    names = {setting.key for setting in conversion.settings}
    assert len(names) == len(conversion.settings), "each setting once"
    assert ("optimizer_config.precondition_frequency" in {key.name for key in conversion.not_carried}) == (
        "precondition_frequency" in changes.get("optimizer_config", "")
    )


RELEASED = {"optimizer_release_gradients": True, "optimizer": "optimi-adamw", "gradient_accumulation_steps": 1,
            "max_grad_norm": 0.5, "grad_clip_method": "value", "num_processes": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        ({}, ""),
        ({"optimizer_release_gradients": False, "gradient_accumulation_steps": 4}, ""),
        ({"train_batch_size": 2}, ""),
        ({"gradient_accumulation_steps": 4}, "4 micro batches; set resources.micro_batch_size to"),
        ({"grad_clip_method": "norm"}, "set gradient_clipping to value"),
        ({"max_grad_norm": 0}, "set gradient_clipping to value"),
        ({"num_processes": 2}, "works with one rank"),
        ({"optimizer": "prodigy"}, "use one of adamw"),
    ],
    ids=str,
)
def test_released_gradients(tmp_path: Path, changes: dict, why_not: str) -> None:
    config, conversion = converted(tmp_path, {**RELEASED, **changes})
    wanted = changes.get("optimizer_release_gradients", True)
    assert config.train.resources.fused_backward == (wanted and not why_not)
    reasons = [key.why for key in conversion.not_carried if key.name == "optimizer_release_gradients"]
    assert [why_not in why for why in reasons] == ([True] if why_not else [])


@pytest.mark.parametrize(
    ("changes", "precision", "said"),
    [
        ({"mixed_precision": "bf16"}, "bf16", "as there; the weights"),
        ({"mixed_precision": "fp16"}, "bf16", "fp16 is not here, it overflows"),
        ({"mixed_precision": "no"}, "tf32", "TF32 as there"),
        ({"mixed_precision": "fp32", "disable_tf32": False}, "tf32", "TF32 as there"),
        ({"mixed_precision": "no", "disable_tf32": True}, "fp32", "strict float32"),
        ({"mixed_precision": "bf16", "disable_tf32": True}, "bf16", "as there"),
        ({"dynamo_backend": "inductor", "dynamo_mode": "max-autotune"}, "bf16", "as there"),
    ],
)
def test_precision(tmp_path: Path, changes: dict, precision: str, said: str) -> None:
    config, conversion = converted(tmp_path, changes)
    assert config.train.mixed_precision == precision and config.train.resources.compile == "auto"
    assert said in next(setting.why for setting in conversion.settings if setting.key == "train.mixed_precision")
    assert set(changes) <= accounted(conversion) and not conversion.unknown
    left = {key.name: key.why for key in conversion.not_carried}
    assert ("disable_tf32" in left) == (precision == "bf16" and "disable_tf32" in changes)
    assert all("train.resources.compile" in left[key] for key in changes if key.startswith("dynamo"))


def test_the_command_keeps_clipping_if_asked(tmp_path: Path) -> None:
    paths = [str(path) for path in files(tmp_path)]
    for options, expected in (([], ("norm", 0.1)), (["--keep-clipping"], ("none", 0.1))):
        out = tmp_path / f"kept{len(options)}.yaml"
        done = CliRunner().invoke(cli, ["convert-simpletuner", *paths, "-o", str(out), *options])
        assert done.exit_code == 0, done.output
        train = load_config(out).train
        assert (train.gradient_clipping, train.max_grad_norm) == expected
        assert ("clipping" in done.output) == (not options), "what changes results is said"


FIVE = {"enable_group_offload": True, "group_offload_type": "block_level", "group_offload_blocks_per_group": 1,
        "group_offload_use_stream": True, "group_offload_to_disk_path": "/fast-ssd/offload"}  # fmt: skip
NO_OFFLOAD = ("none", 1, True, "")


@pytest.mark.parametrize(
    ("changes", "training", "frozen"),
    [
        (FIVE, ("block_level", 1, True, ""), ("block_level", 1, True, "/fast-ssd/offload")),
        ({"enable_group_offload": True}, ("block_level", 1, False, ""), ("block_level", 1, False, "")),
        ({"enable_group_offload": True, "group_offload_blocks_per_group": 4, "group_offload_use_stream": True},
         ("block_level", 4, True, ""), ("block_level", 1, True, "")),
        ({"enable_group_offload": True, "group_offload_blocks_per_group": 4},
         ("block_level", 4, False, ""), ("block_level", 4, False, "")),
        ({"enable_group_offload": True, "group_offload_type": "leaf_level", "group_offload_blocks_per_group": 3},
         ("block_level", 1, False, ""), ("leaf_level", 1, False, "")),
        ({**FIVE, "gradient_checkpointing": False}, ("block_level", 1, True, ""),
         ("block_level", 1, True, "/fast-ssd/offload")),
        ({**FIVE, "optimizer_release_gradients": True, "max_grad_norm": 0.5},
         ("block_level", 1, True, ""), ("block_level", 1, True, "/fast-ssd/offload")),
        ({**FIVE, "num_processes": 2}, NO_OFFLOAD, ("block_level", 1, True, "/fast-ssd/offload")),
        ({**FIVE, "optimizer": "prodigy"}, NO_OFFLOAD, ("block_level", 1, True, "/fast-ssd/offload")),
        ({**FIVE, "enable_group_offload": False}, NO_OFFLOAD, NO_OFFLOAD),
        ({"group_offload_type": "leaf_level"}, NO_OFFLOAD, NO_OFFLOAD),
    ],
    ids=str,
)  # fmt: skip
def test_group_offload(tmp_path: Path, changes: dict, training: tuple, frozen: tuple) -> None:
    for more, texts in (({}, NO_OFFLOAD), ({"group_offload_text_encoder": True, "group_offload_vae": True}, frozen)):
        config, conversion = converted(tmp_path, {**changes, **more})
        found = (config.train.resources, config.sample.resources, config.encode_captions.resources)
        offloads = [tuple(of.offload.model_dump().values()) for of in found]
        assert offloads == [training, frozen, texts]
        assert {*changes, *more} <= accounted(conversion) and not conversion.unknown
        names = [setting.key for setting in conversion.settings]
        assert len(set(names)) == len(names), "each setting once"
        both = {name for setting in conversion.settings for name in setting.theirs}
        assert not both & {key.name for key in conversion.not_carried}, "each key in one table"


def test_an_unknown_kind_of_offload_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="group_offload_type is 'block', neither block_level nor leaf_level"):
        convert(*files(tmp_path, {"enable_group_offload": True, "group_offload_type": "block"}))


@pytest.mark.parametrize("tiling", [False, True])
def test_tiling_is_of_encoding_and_decoding(tmp_path: Path, tiling: bool) -> None:
    config, _ = converted(tmp_path, {"vae_enable_tiling": tiling})
    assert (config.encode_latents.tiling, config.sample.vae_tiling) == (tiling, tiling)
