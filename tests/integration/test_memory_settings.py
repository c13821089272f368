"""What saves memory changes no byte of a checkpoint: every setting against the run without it, and a resume with it."""

from typing import Any

import pytest

from tests.training_lab import Lab

pytestmark = pytest.mark.timeout(120)

slow = pytest.mark.slow(group="numbers")

BLOCKS = {"type": "block_level"}
STRAIGHT: dict[str, Any] = {"max_steps": 4, "checkpoint_every": 2, "eval_every": 2, "activation_memory": 0}


BF16: dict[str, Any] = {"weights_dtype": "bf16", "mixed_precision": "bf16", "optimizer": {"name": "adamw_bf16"}}


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ({}, {"offload": BLOCKS}),
        pytest.param({}, {"ema_device": "cpu"}, marks=slow),
        pytest.param(
            {}, {"offload": BLOCKS | {"blocks_per_group": 2, "use_stream": False}, "ema_device": "cpu"}, marks=slow
        ),
        pytest.param(BF16, {"offload": BLOCKS, "activation_memory": "auto"}, marks=slow),
    ],
    ids=str,
)
def test_the_run_is_the_same_to_the_byte_and_resumes_without_the_setting(
    lab: Lab, run: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain = STRAIGHT | run
    straight = lab.train("straight", **plain)
    saving = lab.train("saving", **plain | settings)
    lab.assert_same(straight, saving)
    longer = {"max_steps": 6}
    lab.assert_same(lab.train("straight", **plain | settings | longer), lab.train("saving", **plain | longer))
