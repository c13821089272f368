"""The recipe examples/slurm/train.sbatch on two nodes of a real Slurm cluster: lost nodes, pre-emption, mistakes."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sana.metrics import GRAD_NORM, TRAIN_LOSS, parse_rows
from sana.pipeline.plan import inputs_of, plan
from sana.stages import train
from sana.store import open_store
from sana.training.checkpoints.checkpoint import checkpoint_steps, read_checkpoint, read_metrics
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages
from tests.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"a Slurm cluster needs {', '.join(missing_programs())}: apt-get install slurm-wlm",
    ),
]

STEPS = 150
SETTINGS = (
    f"train.max_steps={STEPS}",
    "train.resources.micro_batch_size=2",
    "train.resources.checkpoint_every=10",
    "train.resources.log_every=5",
)
TRAIN, PREPARE = ROOT / "examples/slurm/train.sbatch", ROOT / "examples/slurm/prepare.sbatch"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
# in place of `sana`: says where and when it runs, and on its first STARTS starts does as it is told
PRETENDER = """\
#!/bin/bash
echo "start ${SLURM_RESTART_COUNT:-0} of rank $SLURM_PROCID" >>SAID
trap 'sleep 2; echo "saved by rank $SLURM_PROCID" >>SAID; exit 143' TERM
((${SLURM_RESTART_COUNT:-0} < STARTS)) || exit 0
work() { for _ in {1..300}; do sleep 0.2; done; }
rank_0() { work; }
rank_1() { work; }
DO
rank_$SLURM_PROCID
"""


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: SlurmCluster) -> SlurmCluster:
    """Both nodes, up and idle, whatever the test before did."""
    whole_cluster.make_idle()
    return whole_cluster


def submit(cluster: SlurmCluster, folder: Path, sana: str, recipe: Path = TRAIN, **variables: str) -> int:
    """Submit a recipe in a folder, with one task a node; its log is job.log."""
    (folder / "sana").write_text(sana, encoding="utf-8")
    (folder / "sana").chmod(0o755)
    (folder / "submitted").mkdir()
    sized = ["--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10"]
    variables = {"SANA": str(folder / "sana"), "MASTER_ADDR": "127.0.0.1", **variables}
    return cluster.sbatch(recipe, *sized, f"--output={folder}/job.log", cwd=folder / "submitted", **variables)


def pretend(cluster: SlurmCluster, folder: Path, do: str = "", *, starts: int = 1, **variables: str) -> int:
    text = PRETENDER.replace("SAID", str(folder / "said")).replace("DO", do).replace("STARTS", str(starts))
    return submit(cluster, folder, text, **variables)


def said(folder: Path) -> list[str]:
    path = folder / "said"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def wait_until_both_run(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while len(said(folder)) < 2:
        assert time.monotonic() < deadline, (folder / "job.log").read_text()
        time.sleep(0.1)


BOTH = ["start 0 of rank 0", "start 0 of rank 1"]
TWICE = [*BOTH, "start 1 of rank 0", "start 1 of rank 1"]


@pytest.mark.slow(group="slurm_recipe")
@pytest.mark.parametrize("mistake", ["exit 1", "no-such-command"])
def test_a_mistake_of_one_rank_ends_the_job_for_good(cluster: SlurmCluster, tmp_path: Path, mistake: str) -> None:
    number = pretend(cluster, tmp_path, f"rank_1() {{ sleep 1; {mistake}; }}")
    job = cluster.wait_for(number, *ENDED, timeout_s=30)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "1:0", "0")
    # the other rank is asked to end, and has time to
    assert said(tmp_path) == ["saved by rank 0", *BOTH] and os.listdir(tmp_path / "submitted") == []


@pytest.mark.slow(group="slurm_recipe")
def test_starts_that_never_last_come_to_an_end(cluster: SlurmCluster, tmp_path: Path) -> None:
    number = pretend(cluster, tmp_path, "work() { exit 75; }", starts=3, MAX_RESTARTS="1")
    job = cluster.wait_for(number, "FAILED", timeout_s=60)
    assert (job["ExitCode"], job["Restarts"]) == ("75:0", "1")
    assert said(tmp_path) == TWICE and os.listdir(tmp_path / "submitted") == []


@pytest.mark.slow(group="slurm_recipe")
def test_a_job_that_is_cancelled_has_time_to_save_and_stays_so(cluster: SlurmCluster, tmp_path: Path) -> None:
    number = pretend(cluster, tmp_path)
    wait_until_both_run(tmp_path)
    cluster.call("scancel", str(number))
    cluster.wait_until_idle()
    assert cluster.job(number)["JobState"] == "CANCELLED"
    assert said(tmp_path) == ["saved by rank 0", "saved by rank 1", *BOTH]
    assert os.listdir(tmp_path / "submitted") == []


@pytest.mark.slow(group="slurm_recipe")
def test_a_node_that_is_back_before_slurm_missed_it(cluster: SlurmCluster, tmp_path: Path) -> None:
    number = pretend(cluster, tmp_path, "rank_0() { sleep 4; exit 75; }", GONE_S="5")
    wait_until_both_run(tmp_path)
    cluster.crash_node("node2")
    cluster.start_node("node2")
    job = cluster.wait_for(number, *ENDED, timeout_s=60)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), (tmp_path / "job.log").read_text()
    assert said(tmp_path) == TWICE and os.listdir(tmp_path / "submitted") == []


@pytest.mark.slow(group="slurm_recipe")
def test_the_node_of_the_batch_script_dies(cluster: SlurmCluster, tmp_path: Path) -> None:
    number = pretend(cluster, tmp_path)
    wait_until_both_run(tmp_path)
    cluster.crash_node("node1")
    cluster.wait_for_node("node1", "down")  # as Slurm finds out by itself
    cluster.start_node("node1")
    job = cluster.wait_for(number, *ENDED, timeout_s=60)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), (tmp_path / "job.log").read_text()
    # whether the other rank has time to save depends on what of the step's managers is left
    assert [line for line in said(tmp_path) if line.startswith("start")] == TWICE


@pytest.mark.slow(group="slurm_recipe")
def test_data_that_is_not_ready_at_the_time_limit_is_made_by_a_second_job(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    text = PRETENDER.replace("SAID", str(tmp_path / "said")).replace("DO", "").replace("STARTS", "1")
    number = submit(cluster, tmp_path, text, PREPARE)
    deadline = time.monotonic() + 30
    while not said(tmp_path):
        assert time.monotonic() < deadline, cluster.job(number)
        time.sleep(0.1)
    cluster.call("scancel", "--signal=USR1", "--batch", str(number))  # as --signal=B:USR1@120 does
    job = cluster.wait_for(number, *ENDED, timeout_s=60)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), (tmp_path / "job.log").read_text()
    assert said(tmp_path) == ["saved by rank 0", "start 0 of rank 0", "start 1 of rank 0"]


class Training:
    """A training under Slurm, of a root that has everything before it."""

    def __init__(self, place: Place, cluster: SlurmCluster) -> None:
        self.place, self.cluster, self.context = place, cluster, place.context(*SETTINGS)
        self.trajectory = train.trajectory_of(train.recipe(self.context, inputs_of(self.context, "train")))
        config = place.folder / "resolved.yaml"
        config.write_text(yaml.safe_dump(self.context.config.model_dump(mode="json")), encoding="utf-8")
        sana = f'#!/bin/bash\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m flows.cli.main "$@"\n'
        self.job = submit(cluster, place.folder, sana, CONFIG=str(config))

    @property
    def log(self) -> str:
        return (self.place.folder / "job.log").read_text()

    def wait_for_step(self, step: int) -> int:
        """Wait until a checkpoint of this step, or a later one, is committed; returns which."""
        deadline = time.monotonic() + 180
        while not (found := [one for one in checkpoint_steps(self.context.store, self.trajectory) if one >= step]):
            assert time.monotonic() < deadline, self.log
            assert self.cluster.job(self.job)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), self.log
            time.sleep(0.2)
        assert found[-1] < STEPS
        return found[-1]


def numbers(place: Place, trajectory: str) -> list[float]:
    """The loss and the gradient norm of every step."""
    store = open_store(place.root)
    rows = parse_rows(read_metrics(store, read_checkpoint(store, trajectory, STEPS)))
    return [row[name] for row in rows for name in (TRAIN_LOSS, GRAD_NORM)]


@pytest.mark.slow(group="slurm")
def test_a_job_that_is_preempted_and_loses_a_node_trains_as_if_not(
    cluster: SlurmCluster, tmp_path: Path, tiny_model: Path
) -> None:
    straight = new_place(tmp_path / "straight", tiny_model)
    with inline_workers():
        run_stages(straight.context(*SETTINGS), last="encode_latents")
        shutil.copytree(straight.root, tmp_path / "slurm" / "root")
        run_stages(straight.context(*SETTINGS), last="train")
    place = Place(tmp_path / "slurm", tiny_model, str(tmp_path / "slurm" / "root"))
    shutil.copytree(straight.clips, place.clips)
    training = Training(place, cluster)

    preempted = training.wait_for_step(10)
    cluster.call("scancel", "--signal=USR1", str(training.job))  # as --signal=USR1@300 does before the time limit
    lost = training.wait_for_step(preempted + 20)
    cluster.crash_node("node2")
    cluster.wait_for_node("node2", "down")  # as Slurm finds out by itself
    cluster.start_node("node2")  # the power is back
    job = cluster.wait_for(training.job, *ENDED, timeout_s=240)
    # a machine under load may miss a node once more
    assert job["JobState"] == "COMPLETED" and int(job["Restarts"]) >= 2, training.log
    assert training.log.count("resuming from step") >= 2 and "SIGUSR1: stopped after step" in training.log
    # `sana run` finds the artifact that the job committed
    assert {one.name: one.state for one in plan(training.context, last="train")}["train"] == "cached"
    unbroken, broken = (numbers(one, training.trajectory) for one in (straight, place))
    worst = max(abs(a / b - 1) for a, b in zip(unbroken, broken, strict=True))
    print(f"pre-empted after step {preempted}, a node lost after {lost} of {STEPS}; worst difference {worst:.1e}")
    assert len(broken) == 2 * STEPS and worst < 1e-5
