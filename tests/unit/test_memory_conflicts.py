"""What saves memory and cannot work is an error when the config is read, which names the nearest that works."""

from typing import Any

import pytest

from sana.config.load import check, load_config
from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.errors import ConfigError
from tests.pipeline_runs import ROOT

pytestmark = pytest.mark.timeout(60)

FUSED = {"fused_backward": True}
NO_NORM = {"gradient_clipping": "none"}
OFFLOAD: dict[str, Any] = {"offload": {"type": "block_level"}, "activation_memory": "recompute_all"}


def load(train: dict[str, Any], resources: dict[str, Any]) -> None:
    raw = load_config(ROOT / "configs/demo.yaml").model_dump(mode="json")
    raw["train"].update(train)
    raw["train"]["resources"].update(resources)
    check(raw, where="here.yaml")


@pytest.mark.parametrize(
    ("train", "resources", "said"),
    [
        ({}, OFFLOAD | {"offload": {"type": "leaf_level"}}, "leaf_level is for weights .*block_level"),
        ({}, OFFLOAD | {"offload": {"type": "block_level", "to_disk_path": "/fast"}}, "to_disk_path /fast .* empty"),
        (
            {},
            OFFLOAD | {"num_processes": 2, "micro_batch_size": 1},
            "one rank, not num_processes 2.* use num_processes 1",
        ),
        ({}, OFFLOAD | {"sharding": "full"}, "sharding full .* use sharding none with offload"),
        ({}, OFFLOAD | {"activation_memory": 1}, "activation_memory 1.* use auto or recompute_all"),
        ({}, OFFLOAD | {"activation_memory": 0.5}, "activation_memory 0.5.* use auto or recompute_all"),
        ({"max_skipped_steps": 3}, OFFLOAD, "max_skipped_steps 3 .* use max_skipped_steps 0"),
        ({"optimizer": {"name": "prodigy"}}, OFFLOAD, "optimizer.name prodigy .* use one of adamw, "),
        ({"gradient_clipping": "norm"}, FUSED, "gradient_clipping norm .* set gradient_clipping to value .*or none"),
        (NO_NORM, FUSED | {"num_processes": 2, "micro_batch_size": 2}, "one rank, not num_processes 2"),
        (NO_NORM, FUSED | {"sharding": "full"}, "sharding full .* use sharding none"),
        (
            NO_NORM,
            FUSED | {"micro_batch_size": 2},
            "2 micro batches; set resources.micro_batch_size to 4, or global_batch_size to 2",
        ),
        (NO_NORM | {"max_skipped_steps": 3}, FUSED, "max_skipped_steps 3 .* use max_skipped_steps 0"),
        (NO_NORM, FUSED | OFFLOAD, "offload.type block_level leaves none; use one of the two"),
        *(
            (NO_NORM | {"optimizer": {"name": name}}, FUSED, f"optimizer.name {name} .* use one of adamw, adafactor, ")
            for name, support in SUPPORT.items()
            if not support.fused_backward
        ),
        ({}, {"offload": {"type": "block"}}, "train.resources.offload.type"),
        ({}, {"offload": {"blocks_per_group": 0}}, "train.resources.offload.blocks_per_group"),
        ({}, {"ema_device": "cuda"}, "train.resources.ema_device"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(train: dict[str, Any], resources: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(train, resources)


@pytest.mark.parametrize(
    ("train", "resources"),
    [
        (NO_NORM, FUSED | {"ema_device": "cpu", "compile": "always"}),
        ({"gradient_clipping": "value", "max_grad_value": 0.1, "optimizer": {"name": "adamw_bf16"}}, FUSED),
        ({}, OFFLOAD),
        ({}, OFFLOAD | {"ema_device": "cpu", "compile": "never"}),
        ({}, OFFLOAD | {"compile": "always"}),
        ({}, OFFLOAD | {"activation_memory": 0}),
        ({}, OFFLOAD | {"activation_memory": "auto", "compile": "auto"}),
    ],
)
def test_the_nearest_that_works_is_taken(train: dict[str, Any], resources: dict[str, Any]) -> None:
    load(train, resources)


@pytest.mark.parametrize("section", ["sample", "evaluate", "encode_captions"])
@pytest.mark.parametrize(
    ("offload", "said"),
    [
        (
            {"type": "block_level", "blocks_per_group": 2},
            "one block at a time, not blocks_per_group 2; use .* or use_st",
        ),
        (
            {"type": "leaf_level", "blocks_per_group": 2, "use_stream": False},
            "2 is of type block_level, and type is leaf",
        ),
        ({"to_disk_path": "/fast"}, "to_disk_path /fast needs a type"),
        ({"type": "block_level", "blocks_per_group": 2, "use_stream": False, "to_disk_path": "/fast"}, None),
        ({"type": "leaf_level"}, None),
    ],
)
def test_offload_of_what_does_not_learn(section: str, offload: dict[str, Any], said: str | None) -> None:
    raw = load_config(ROOT / "configs/demo.yaml").model_dump(mode="json")
    raw[section]["resources"]["offload"].update(offload)
    if said is None:
        check(raw, where="here.yaml")
        return
    with pytest.raises(ConfigError, match=said):
        check(raw, where="here.yaml")


def test_evaluation_with_offload_is_for_one_rank() -> None:
    raw = load_config(ROOT / "configs/demo.yaml").model_dump(mode="json")
    raw["evaluate"]["resources"]["offload"]["type"] = "leaf_level"
    raw["train"]["resources"].update(num_processes=2, micro_batch_size=1)
    with pytest.raises(ConfigError, match="one rank, not train.resources.num_processes 2, .* or num_processes to 1"):
        check(raw, where="here.yaml")
