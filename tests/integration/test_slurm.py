"""Training on two nodes of a real Slurm cluster by the recipe of examples/slurm, one of which loses power."""

import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml

from sana.facts import TrainFacts
from sana.pipeline.plan import inputs_of, plan
from sana.stages import train
from sana.store import open_store
from sana.training.checkpoints.checkpoint import checkpoint_steps, read_checkpoint, read_metrics
from sana.training.metrics import parse_rows
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages
from tests.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster

STEPS = 240
SETTINGS = (
    f"train.max_steps={STEPS}",
    "train.resources.micro_batch_size=2",
    "train.resources.checkpoint_every=10",
    "train.resources.log_every=5",
)
RECIPE = ROOT / "examples/slurm/train.sbatch"


def losses(place: Place, trajectory: str) -> list[float]:
    store = open_store(place.root)
    rows = parse_rows(read_metrics(store, read_checkpoint(store, trajectory, STEPS)))
    return [row["train/loss"] for row in rows if "train/loss" in row]


def command(folder: Path) -> Path:
    """A `sana` that runs this checkout."""
    path = folder / "sana"
    path.write_text(
        f'#!/bin/bash\nexport PYTHONPATH={ROOT} OMP_NUM_THREADS=1\nexec {sys.executable} -m flows.cli.main "$@"\n'
    )
    path.chmod(0o755)
    return path


def submit(cluster: SlurmCluster, place: Place, sana: Path, log: Path) -> int:
    config = place.folder / "resolved.yaml"
    config.write_text(yaml.safe_dump(place.config(*SETTINGS).model_dump(mode="json")))
    sized = ["--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10", f"--output={log}"]
    return cluster.sbatch(RECIPE, *sized, CONFIG=str(config), SANA=str(sana), MASTER_ADDR="127.0.0.1")


@pytest.mark.slow(group="slurm")
@pytest.mark.timeout(240)
@pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not whole here: {missing_programs()}")
def test_a_node_that_dies_costs_a_requeue_and_no_step(tmp_path: Path, tiny_model: Path) -> None:
    straight = new_place(tmp_path / "straight", tiny_model)
    with inline_workers():
        run_stages(straight.context(*SETTINGS), last="encode_latents")
        shutil.copytree(straight.root, tmp_path / "crashed" / "root")
        made = run_stages(straight.context(*SETTINGS), last="train")["train"]
    place = Place(tmp_path / "crashed", tiny_model, str(tmp_path / "crashed" / "root"))
    shutil.copytree(straight.clips, place.clips)
    context = place.context(*SETTINGS)
    recipe = train.recipe(context, inputs_of(context, "train"))
    trajectory, log = train.trajectory_of(recipe), tmp_path / "job.log"
    with slurm_cluster(tmp_path / "slurm") as cluster:
        number = submit(cluster, place, command(tmp_path), log)
        deadline = time.monotonic() + 120
        while not [step for step in checkpoint_steps(context.store, trajectory) if step >= 20]:
            assert time.monotonic() < deadline, log.read_text()
            assert cluster.job(number)["JobState"] in ("PENDING", "RUNNING"), log.read_text()
            time.sleep(0.2)
        cluster.crash_node("node2")
        reached = checkpoint_steps(context.store, trajectory)[-1]
        assert reached < STEPS
        cluster.wait_for_node("node2", "down")  # as Slurm finds out by itself
        cluster.start_node("node2")  # the power is back
        job = cluster.wait_for(number, "COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", timeout_s=150)
        assert job["JobState"] == "COMPLETED" and int(job["Restarts"]) >= 1, log.read_text()
    # `sana run` finds the artifact that the job committed, and the losses are those of one process that nothing stopped
    assert {one.stage: one.state for one in plan(context, last="train")}["train"] == "cached"
    facts = TrainFacts.of(made)
    assert facts.trajectory == trajectory and facts.step == STEPS
    worst = max(abs(a / b - 1) for a, b in zip(losses(straight, trajectory), losses(place, trajectory), strict=True))
    print(f"killed at step {reached} of {STEPS}; worst relative difference of a loss: {worst:.1e}")
    assert worst < 1e-3
