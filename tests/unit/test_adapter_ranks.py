"""What trains beside or without all weights, on two ranks, whole and sharded: the steps of one process."""

from pathlib import Path
from typing import Any

import pytest

from sana.training.checkpoints.checkpoint_io import load
from tests.devices import fresh_accelerator
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded
from tests.unit.test_sharding import SETTINGS, TOLERANCE, train_on_two, worst

pytestmark = pytest.mark.timeout(240)

LORA = {"name": "lora", "rank": 2, "targets": ["self_attention", "feed_forward"]}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {**LORA, "dropout": 0.3}},
    "dora": {"method": {**LORA, "use_dora": True}, "frozen": ["*.lora_A.weight"], "mixed_precision": "bf16"},
    "int8": {"method": LORA, "base_weights": "int8", "mixed_precision": "bf16"},
    "frozen": {"frozen": ["*.attn1.*", "patch_embedding.*", "proj_out.*"]},
}
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "full": {"sharding": "full"},
    "hybrid": {"sharding": "hybrid", "activation_memory": "recompute_all"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("adapter_ranks")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


SLOW = pytest.mark.slow(group="adapters")


@SLOW
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_take_the_steps_of_one_process(pair: RankPair, lab: Lab, name: str) -> None:
    settings = {**SETTINGS, "learning_rate": 1e-2, "max_steps": 3, "eval_every": 3, **METHODS[name]}
    with fresh_accelerator():
        micro = 2 if name == "lora" else 1  # a mask is a sample's own, whatever is beside it
        rows = lab.rows(lab.train(f"one-{name}", **{**settings, "micro_batch_size": micro}))
    for way, changed in WAYS.items():
        local_ranks = 1 if way == "hybrid" else 2
        train_on_two(pair, lab, f"{way}-{name}", local_ranks=local_ranks, **{**settings, **changed})
        found = lab.rows(lab.at(f"{way}-{name}", 3))
        print(f"{name}, {way}: {worst(rows, found):.1e}")
        assert worst(rows, found) < TOLERANCE
        # a base that learned in bf16 or 8 bits is rounded where the stock one is not
        checks = lab.passport().checks
        assert all(check.difference <= (check.bound if name in ("dora", "int8") else 1e-5) for check in checks)
    # one process goes on from what shards saved
    with fresh_accelerator():
        more = lab.rows(lab.train(f"full-{name}", **{**settings, "max_steps": 4}))
        assert worst(lab.rows(lab.train(f"one-{name}", **{**settings, "max_steps": 4})), more) < TOLERANCE


@SLOW
def test_what_is_frozen_stays_and_is_in_the_checkpoint(lab: Lab) -> None:
    for name in ("dora", "frozen"):
        settings = {**SETTINGS, "learning_rate": 1e-2, **METHODS[name]}
        with fresh_accelerator():
            first, last = (lab.train(f"stays-{name}", **settings, max_steps=steps) for steps in (1, 3))
        before, after = load(lab.store, first, "weights"), load(lab.store, last, "weights")
        same = {key for key in before if before[key].equal(after[key])}
        ends = ("lora_A.weight",) if name == "dora" else ()
        expected = {k for k in before if k.endswith(ends or "-") or (not ends and _is_frozen(k))}
        assert same == expected and expected
        moments = load(lab.store, last, "optimizer")
        assert {key.rpartition(".")[0] for key in moments} == set(before) - expected


def _is_frozen(name: str) -> bool:
    return ".attn1." in name or name.startswith(("patch_embedding.", "proj_out."))
