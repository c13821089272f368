"""Sharded by FSDP2, two ranks train as two with whole states and as one process; any of them resumes from any other."""

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.config.training.train import TrainConfig
from sana.model.precision import STRICT
from sana.runtime.job import read_job
from sana.runtime.results import TrainResult
from sana.runtime.specs import CheckpointName, InitialWeights, TrainSpec
from sana.training.checkpoints.checkpoint_io import PARTS, load, load_weights, weights_digest
from sana.training.clipping import clip_gradients
from sana.training.parallel.parallel import Parallel
from sana.training.parallel.sharding import local
from sana.workers.train import build_trainer, train
from tests.rank_pair import RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded

pytestmark = pytest.mark.timeout(240)

TOLERANCE = 1e-5  # relative, of losses and gradient norms


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("sharding")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


def _train(job_path: Path, local_ranks: int) -> list[str]:
    """Returns what was warned of: torch's warnings of every step would fill the log."""
    os.environ["LOCAL_WORLD_SIZE"] = str(local_ranks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(read_job(job_path, TrainSpec))
    return [str(warning.message) for warning in caught if "view" in str(warning.message)]


SETTINGS = {"global_batch_size": 4, "micro_batch_size": 1}


def train_on_two(pair: RankPair, lab: Lab, trajectory: str, *, local_ranks: int = 2, **settings: Any) -> None:
    job = lab.job(trajectory, **{**SETTINGS, **settings})
    assert pair.run(_train, job.path, local_ranks, time_limit_s=180) == [[], []]


def worst(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Return the largest relative difference of the losses and gradient norms of two runs."""
    names = ("train/loss", "train/grad_norm", "eval/loss_live", "eval/loss_ema")
    pairs = [(left[name], right[name]) for left, right in zip(a, b, strict=False) for name in names if name in left]
    assert len(pairs) >= 2 * (min(len(a), len(b)) - 3)
    return max(abs(left / right - 1) for left, right in pairs)


@pytest.mark.parametrize("steps", [4, pytest.param(20, marks=pytest.mark.slow(group="ranks"))])
def test_sharded_ranks_take_the_steps_of_whole_ones_and_of_one_process(pair: RankPair, lab: Lab, steps: int) -> None:
    settings = {**SETTINGS, "max_steps": steps, "eval_every": steps // 2, "checkpoint_every": steps // 2}
    rows = lab.rows(lab.train(f"one-{steps}", **settings))
    saved = {}
    for name, changed, local_ranks in (
        ("none", {}, 2),
        ("full", {"sharding": "full"}, 2),
        ("hybrid", {"sharding": "hybrid", "activation_memory": "recompute_all"}, 1),
    ):
        train_on_two(pair, lab, f"{name}-{steps}", local_ranks=local_ranks, **{**settings, **changed})
        saved[name] = lab.at(f"{name}-{steps}", steps)
        found = lab.rows(saved[name])
        print(f"{name}, {steps} steps: {worst(rows, found):.1e}")
        assert worst(rows, found) < TOLERANCE, name
        assert found[0]["eval/loss_live"] == rows[0]["eval/loss_live"]  # evaluated with sharded weights: bit-equal
    # files of the same names and sizes, whatever wrote them
    sizes = [{name: info.num_bytes for name, info in one.files.items()} for one in saved.values()]
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.slow(group="sharded")
@pytest.mark.parametrize("name", [name for name, support in SUPPORT.items() if support.fsdp2 and name != "adamw"])
def test_each_optimizer_that_holds_trains_sharded_as_one_process(pair: RankPair, lab: Lab, name: str) -> None:
    settings = {**SETTINGS, "max_steps": 4, "eval_every": 0, "optimizer": {"name": name}}
    rows = lab.rows(lab.train(f"one-{name}", **settings))
    for sharding, local_ranks in (("full", 2), ("hybrid", 1)):
        train_on_two(pair, lab, f"{sharding}-{name}", **settings, sharding=sharding, local_ranks=local_ranks)
        found = lab.rows(lab.at(f"{sharding}-{name}", 4))
        print(f"{name}, {sharding}: {worst(rows, found):.1e}")
        assert worst(rows, found) < TOLERANCE, sharding
    # one process goes on from what sharded ranks saved
    more = lab.rows(lab.train(f"full-{name}", **{**settings, "max_steps": 6}))
    assert worst(lab.rows(lab.train(f"one-{name}", **{**settings, "max_steps": 6})), more) < TOLERANCE


def test_bf16_casts_the_same_sharded_and_whole(pair: RankPair, lab: Lab) -> None:
    settings = {"mixed_precision": "bf16", "max_steps": 3, "eval_every": 0}
    for sharding in ("none", "full"):
        train_on_two(pair, lab, f"bf16-{sharding}", sharding=sharding, **settings)
    rows = [lab.rows(lab.at(f"bf16-{sharding}", 3)) for sharding in ("none", "full")]
    print(f"bf16: {worst(*rows):.1e}")
    assert worst(*rows) < TOLERANCE


def test_a_run_goes_on_with_other_ranks_and_another_sharding(pair: RankPair, lab: Lab) -> None:
    settings = {**SETTINGS, "eval_every": 0, "checkpoint_every": 100, "max_skipped_steps": 2}
    straight = lab.rows(lab.train("straight", **{**settings, "max_steps": 10}))
    for max_steps, sharding in ((2, "none"), (4, "full"), (6, "none")):
        train_on_two(pair, lab, "resumed", **{**settings, "max_steps": max_steps, "sharding": sharding})
    lab.train("resumed", **{**settings, "max_steps": 8, "sharding": "full"})  # one rank has all, whatever the config
    train_on_two(pair, lab, "resumed", **{**settings, "max_steps": 10, "sharding": "hybrid"}, local_ranks=1)
    resumed = lab.at("resumed", 10)
    assert worst(straight, lab.rows(resumed)) < TOLERANCE
    # what the sharded ranks exported is the checkpoint's EMA, whole
    digests = weights_digest(load_weights(lab.store, lab.key("resumed"), 10, which="ema"))
    result = TrainResult.load(lab.last_job.with_suffix(".result.json"), repair_hint="")
    assert result.weights.ema == digests


def _start_digests(job_path: Path) -> dict[str, str] | None:
    """Digests of the whole state that a job starts from, on rank 0."""
    job = read_job(job_path, TrainSpec)
    parallel = Parallel.open(job.config.train)
    state = build_trainer(job, parallel).state
    parts = state.parts()
    assert not any(tensor.any() for tensor in parts.pop("ledger").values()), "losses by clip begin anew"
    digests = {part: weights_digest(parallel.gather(tensors)) for part, tensors in parts.items()}
    return {**digests, "steps": str(state.optimizer_steps_before)} if parallel.is_main else None


@pytest.mark.parametrize("which", ["live", "ema"])
def test_two_ranks_start_from_an_earlier_run_as_one_process_does(pair: RankPair, lab: Lab, which: Any) -> None:
    first = lab.train(f"first-{which}", **SETTINGS, max_steps=3, eval_every=0)
    start = InitialWeights(CheckpointName(lab.key(f"first-{which}"), 3), None, which, which == "live")
    of_first = {part: weights_digest(load(lab.store, first, part)) for part in PARTS}
    moments = weights_digest({name: torch.zeros_like(t) for name, t in load(lab.store, first, "optimizer").items()})
    weights = of_first["weights" if which == "live" else "ema"]
    expected = {"weights": weights, "ema": weights, "optimizer": moments, "steps": "0"}
    if which == "live":
        expected |= {"optimizer": of_first["optimizer"], "steps": "3"}
    assert _start_digests(lab.job("second", **SETTINGS, initial=start).path) == expected
    for sharding in ("none", "full"):
        job = lab.job("second", **SETTINGS, initial=start, sharding=sharding)
        assert pair.run(_start_digests, job.path) == [expected, None]


def test_sharded_ranks_export_the_bytes_of_one_process(pair: RankPair, lab: Lab) -> None:
    results = []
    for sharding in ("one process", "none", "full"):  # of one state: the first takes the steps
        settings = {**SETTINGS, "max_steps": 2, "eval_every": 0}
        if sharding == "one process":
            lab.train("exported", **settings)
        else:
            train_on_two(pair, lab, "exported", **settings, sharding=sharding)
        results.append(TrainResult.load(lab.last_job.with_suffix(".result.json"), repair_hint=""))
    digests = [{name: (file.num_bytes, file.digest) for name, file in result.files.items()} for result in results]
    assert digests[0] == digests[1] == digests[2] and len(digests[0]) > 5
    assert results[0].weights == results[1].weights == results[2].weights
    assert len({result.weights_digest for result in results}) == 1
    assert len({result.model for result in results}) == 3  # each was written


def _sharded_norms(bounds: tuple[float, ...]) -> list[tuple[float, float, list[int]]]:
    """Clip by value, sharded: the norm before, the largest number after on all ranks, and the sizes of the shards."""
    found = []
    for bound in bounds:
        config = TrainConfig(
            max_steps=1, global_batch_size=2, mixed_precision="fp32", gradient_clipping="value", max_grad_value=bound,
            resources={"device": "cpu", "sharding": "full"},
        )  # fmt: skip
        parallel = Parallel.open(config)
        trainable = SimpleNamespace(model=nn.Module(), parameters={}, fixed={})
        trainable.model.transformer_blocks = nn.ModuleList([nn.Linear(3, 1)])
        trainable.parameters = {f"of {name}": p for name, p in trainable.model.named_parameters()}
        model = parallel.wrap(trainable)  # type: ignore[arg-type]
        del model
        for parameter in trainable.parameters.values():
            parameter.grad = torch.ones_like(parameter) * 2
        norm = clip_gradients(parallel, trainable.parameters.values(), config)
        shards = [local(p.grad) for p in trainable.parameters.values()]
        largest = parallel.largest(int(1000 * max([s.max().item() for s in shards if s.numel()], default=0)))
        found.append((norm.item(), largest / 1000, [s.numel() for s in shards]))
    return found


def test_numbers_are_clipped_in_shards_too_and_a_rank_may_have_none(pair: RankPair) -> None:
    first, second = pair.run(_sharded_norms, (0.5, 3.0))
    assert [entry[0] for entry in first] == [entry[0] for entry in second] == pytest.approx([4.0, 4.0])
    assert [entry[1] for entry in first] == [entry[1] for entry in second] == [0.5, 2.0]
    assert first[0][2] == [3, 1] and second[0][2] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"resources": {"sharding": "full"}, "optimizer": {"name": "adamw_8bit"}},
            "adamw_8bit is not made: its blocks of.*use one of adamw, adafactor, adamw_bf16, optimi_adamw, muon, came",
        ),
        ({"resources": {"sharding": "full"}, "optimizer": {"name": "prodigy"}}, "numbers of all weights.*use one of"),
        ({"resources": {"sharding": "hybrid", "ema_device": "cpu"}}, "set ema_device to auto"),
        ({"resources": {"sharding": "half"}}, "'none', 'full' or 'hybrid'"),
    ],
)
def test_what_does_not_hold_sharded_is_refused(settings: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainConfig(max_steps=1, global_batch_size=2, **settings)


def test_sharding_changes_no_trajectory() -> None:
    settings = [
        TrainConfig(max_steps=1, global_batch_size=2, resources={"sharding": sharding}).trajectory_settings()
        for sharding in ("none", "full", "hybrid")
    ]
    assert settings[0] == settings[1] == settings[2]


@pytest.mark.gpu
def test_ranks_on_gpus_share_what_is_in_the_hosts_memory() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        device = torch.device("cuda", 0)
        accelerator: Any = SimpleNamespace(num_processes=2, device=device, process_index=0)  # NCCL wants a GPU a rank
        parallel = Parallel(accelerator, STRICT)
        into = {"ema": {"host": torch.zeros(3), "gpu": torch.zeros(3, device=device)}}
        parallel.broadcast = lambda values: values  # type: ignore[method-assign]
        parallel.scatter({"ema": {"host": torch.ones(3), "gpu": torch.ones(3)}}, into)
        assert [tensor.sum().item() for tensor in into["ema"].values()] == [3.0, 3.0]
        assert into["ema"]["host"].device.type == "cpu"
    finally:
        torch.distributed.destroy_process_group()
