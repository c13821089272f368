"""`train.method`: its hash, the layers that targets name, and what is refused before anything runs."""

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from sana.config.training.adapter_names import adapter_shapes, adapter_targets
from sana.config.training.method import LoraMethod
from sana.config.training.method_conflicts import check_base_weights
from sana.config.training.optimization import optimizer_support
from sana.config.training.optimization.parameter_names import check_parameter_names
from sana.config.training.train import TrainConfig
from sana.costs.parameter_shapes import parameter_shapes
from sana.costs.transformer import TransformerSizes
from sana.errors import ConfigError
from sana.training.optimizers.optimizer import decay_groups

SIZES = {
    "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": 16, "mlp_ratio": 3.0,
    "in_channels": 16, "patch_size": [1, 2, 2],
}  # fmt: skip
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")


def train(**settings: Any) -> TrainConfig:
    return TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 1, **settings})


def shapes() -> dict[str, tuple[int, ...]]:
    return parameter_shapes(TransformerSizes.of(SIZES))


def test_a_method_that_is_not_set_moves_no_address() -> None:
    assert "method" not in train().hashed() and "method" not in train(method={"name": "full"}).hashed()
    lora = train(method={"name": "lora", "rank": 8}).hashed()["method"]
    assert lora == train(method={"name": "lora", "rank": 8, "alpha": 8}).hashed()["method"]
    assert lora != train(method={"name": "lora", "rank": 8, "alpha": 4}).hashed()["method"]


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("self_attention", ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")),
        ("cross_attention", ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")),
        ("feed_forward", ("ff.conv_inverted", "ff.conv_point", "ff.conv_temp")),
        ("to_q", ("attn1.to_q", "attn2.to_q")),
        ("attn2.to_*", ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")),
        ("ff.conv_temp", ("ff.conv_temp",)),
    ],
)
def test_targets_are_groups_or_globs(target: str, ends: tuple[str, ...]) -> None:
    found = adapter_targets(LoraMethod(name="lora", targets=(target,)), shapes())
    assert found == [f"{block}.{end}" for block in BLOCKS for end in ends]


def test_a_glob_may_name_one_block_or_what_is_in_none() -> None:
    method = LoraMethod(name="lora", targets=("transformer_blocks.1.attn1.to_q", "proj_out", "patch_embedding"))
    assert adapter_targets(method, shapes()) == ["patch_embedding", "transformer_blocks.1.attn1.to_q", "proj_out"]


@pytest.mark.parametrize("target", ["ff.conv_depth", "ff.*", "transformer_blocks.*", "conv_*"])
def test_a_grouped_convolution_is_refused_with_the_reason(target: str) -> None:
    config = train(method={"name": "lora", "targets": ["self_attention", target]})
    with pytest.raises(ConfigError, match=r"targets.1 is .*transformer_blocks.0.ff.conv_depth.*name feed_forward"):
        check_parameter_names(config, shapes())


def test_names_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.method.targets.0 is 'attn3'.*self_attention, cross_attention"):
        check_parameter_names(train(method={"name": "lora", "targets": ["attn3"]}), shapes())
    groups = [{"names": "*.ff.*", "learning_rate_factor": 2.0}]  # of what learns: no feed-forward does
    with pytest.raises(ConfigError, match="no parameter has such a name"):
        check_parameter_names(train(method={"name": "lora"}, parameter_groups=groups), shapes())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"name": "prodigy"}, "method": {"name": "lora", "lora_plus_ratio": 4}}, "set it to 1, or use"),
        (
            {"optimizer": {"name": "adamw_bf16"}, "weights_dtype": "bf16", "method": {"name": "lora"}},
            "leave weights_dtype fp32",
        ),
        (
            {"method": {"name": "lora", "dropout": 0.1}, "resources": {"offload": {"type": "block_level"}}},
            "set dropout to 0, or resources.offload.type to none",
        ),
        ({"base_weights": "int8"}, "use method lora, or for less memory optimizer.name adamw_bf16"),
        ({"base_weights": "fp8_cast", "frozen": ["*.ff.*"]}, "with method full they learn"),
        (
            {"method": {"name": "lora"}, "base_weights": "fp8", "resources": {"offload": {"type": "block_level"}}},
            "set resources.offload.type to none, or base_weights to plain",
        ),
        ({"method": {"name": "lora"}, "base_weights": "int4"}, "'plain', 'int8', 'fp8' or 'fp8_cast'"),
        ({"method": {"name": "lora", "rank": 0}}, "greater than or equal to 1"),
        ({"method": {"name": "lora", "targets": []}}, "at least 1 item"),
        ({"method": {"name": "full", "rank": 4}}, "Extra inputs"),
    ],
)
def test_conflicts_are_found_at_load(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**settings)


def test_what_quantises_is_asked_for_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    check_base_weights("int8")

    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(optimizer_support, "version", missing)
    for kind in ("int8", "fp8"):
        with pytest.raises(ConfigError, match=rf"train.base_weights: {kind} needs torchao 0.18.*or use fp8_cast"):
            check_base_weights(kind)  # type: ignore[arg-type]
    check_base_weights("fp8_cast")
    check_base_weights("plain")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ["*.atn1.*"]}, r"frozen.0 is '\*.atn1.\*', and no parameter.*did you mean \*.attn1.\*"),
        ({"frozen": ["*.attn1.*", "*"]}, "frozen.1 is '\\*', and nothing is left that learns"),
        ({"method": {"name": "lora"}, "frozen": ["*.ff.*"]}, "frozen.0 is .*no parameter has such a name"),
        ({"frozen": ["*.ff.*"], "parameter_groups": [{"names": "*.ff.*", "learning_rate_factor": 2}]}, "no parameter"),
    ],
)
def test_frozen_names_are_checked_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_parameter_names(train(**settings), shapes())


def test_magnitudes_do_not_decay() -> None:
    import torch
    from torch import nn

    found = adapter_shapes(LoraMethod(name="lora", use_dora=True, targets=("feed_forward",)), shapes())
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in found.items()}
    decayed = {id(p) for group in decay_groups(parameters, 0.1) if group["weight_decay"] for p in group["params"]}
    assert {name.rpartition(".lora_")[2] for name, p in parameters.items() if id(p) in decayed} == {
        "A.weight", "B.weight"
    }  # fmt: skip
