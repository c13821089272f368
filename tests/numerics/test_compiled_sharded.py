"""Compiled blocks on two ranks, with whole states and sharded by FSDP2: the steps of one eager process, in bounds."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sana.metrics import COMPILED_GRAPHS, parse_rows
from sana.runtime.job import read_job
from sana.runtime.specs import TrainSpec
from sana.training.checkpoints.checkpoint import read_metrics
from sana.workers.train import train
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded
from tests.unit.test_sharding import SETTINGS, TOLERANCE, worst

pytestmark = pytest.mark.timeout(600)

KEPT = {"sharding": "full", "activation_memory": 0.5}
CASES = {
    "none": {"sharding": "none"},
    "full": KEPT,
    "full, recomputed": {"sharding": "full", "activation_memory": "recompute_all"},
    "full, bf16": {**KEPT, "mixed_precision": "bf16"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("compiled_sharded")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


def _train(job_path: Path, backend: str) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    torch._dynamo.reset()  # what an earlier case compiled would not be counted
    with compiled_by(backend):
        train(read_job(job_path, TrainSpec))


def take_steps(pair: RankPair, lab: Lab, name: str, backend: str, **settings: Any) -> None:
    """Train compiled on two ranks, and compare with one eager process."""
    settings = {**SETTINGS, "checkpoint_every": 100, **settings}
    with fresh_accelerator():
        eager = lab.rows(lab.train(f"eager-{name}", **{**settings, "sharding": "none", "activation_memory": 1.0}))
    pair.run(_train, lab.job(name, **{**settings, "compile": "always"}).path, backend, time_limit_s=400)
    saved = lab.at(name, settings["max_steps"])
    found = lab.rows(saved)
    print(f"compiled by {backend}, {name}: {worst(eager, found):.1e} from eager training of one process")
    # autocast rounds each product to bf16, and what is fused with it rounds at other places
    bound = 2e-2 if settings.get("mixed_precision") == "bf16" else TOLERANCE
    assert worst(eager, found) < bound
    assert saved.compute is not None
    assert (saved.compute.compiled, saved.compute.sharding) == (True, settings["sharding"])
    graphs = [row[COMPILED_GRAPHS] for row in parse_rows(read_metrics(lab.store, saved)) if COMPILED_GRAPHS in row]
    assert 1 <= graphs[-1] <= 4  # two buckets, in training and in evaluation


@pytest.mark.slow(group="activations")
@pytest.mark.parametrize("name", CASES)
def test_ranks_take_the_steps_of_one_process(pair: RankPair, lab: Lab, name: str) -> None:
    """Traced and partitioned as for inductor; the graphs are then run by torch."""
    take_steps(pair, lab, name, CPU_BACKEND, max_steps=4, eval_every=2, **CASES[name])


@pytest.mark.slow(group="compile_ranks")
def test_inductor_does_too(pair: RankPair, lab: Lab) -> None:
    take_steps(pair, lab, "inductor", "inductor", max_steps=2, eval_every=0, **KEPT)
