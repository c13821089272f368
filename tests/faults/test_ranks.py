"""Two "machines" on the loopback, a root on S3: one is killed, cut off, pre-empted, and the run ends as if not."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from flows.cli.main import main
from sana.artifact import find
from sana.facts import TrainFacts
from sana.pipeline.plan import inputs_of
from sana.stages import train as stage
from sana.training.checkpoints.checkpoint import newest_checkpoint
from sana.training.metrics import parse_rows
from sana.training.parallel.heartbeat import SILENT_S
from tests.forked import start
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow(group="ranks")]

STEPS = 60
SETTINGS = (f"train.max_steps={STEPS}", "train.resources.checkpoint_every=3", "train.resources.micro_batch_size=1")


def _worker(environ: dict[str, str], config: str, work_dir: str, sharding: str) -> None:
    os.environ.update(environ)
    main(["train-worker", config, "-s", f"work_dir={work_dir}", "-s", f"train.resources.sharding={sharding}"])


class Machines:
    """Starts both ranks of a training, each with a work_dir of its own."""

    def __init__(self, place: Place) -> None:
        self.place, self.context = place, place.context(*SETTINGS)
        self.recipe = stage.recipe(self.context, inputs_of(self.context, "train"))
        self.config = place.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(self.context.config.model_dump(mode="json")), encoding="utf-8")

    @contextmanager
    def training(self, sharding: str) -> Iterator[list[BaseProcess]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "1"}
        ranks = []
        for rank in (0, 1):
            work_dir = self.place.folder / f"machine{rank}"
            work_dir.mkdir(exist_ok=True)
            environ = {**common, "RANK": str(rank), "LOCAL_RANK": "0"}
            ranks.append(start(_worker, environ, str(self.config), str(work_dir), sharding))
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()

    def step(self) -> int:
        found = newest_checkpoint(self.context.store, stage.trajectory_of(self.recipe), at_most=STEPS)
        return found.step if found else 0

    def wait_for_more(self, ranks: list[BaseProcess], before: int) -> None:
        deadline = time.monotonic() + 90
        while self.step() <= before:
            assert all(rank.exitcode is None for rank in ranks), [rank.exitcode for rank in ranks]
            assert time.monotonic() < deadline
            time.sleep(0.2)


def ended_within(rank: BaseProcess, seconds: float) -> int | None:
    began = time.monotonic()
    rank.join(seconds)
    print(f"ended with {rank.exitcode} after {time.monotonic() - began:.1f} s")
    return rank.exitcode


def losses(machines: Machines, keys: tuple[str, ...]) -> list[float]:
    rows = parse_rows(b"".join(machines.context.store.read(key) for key in keys))
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_a_run_on_two_machines_survives_the_loss_of_either(tmp_path: Path, tiny_model: Path, s3_root: str) -> None:
    place = new_place(tmp_path, tiny_model, root=s3_root)
    with inline_workers():
        run_stages(place.context(), last="encode_latents")
    machines = Machines(place)
    with machines.training("none") as ranks:  # one is killed
        machines.wait_for_more(ranks, 0)
        ranks[1].kill()
        assert ended_within(ranks[0], 15) == 75
    saved = machines.step()
    with machines.training("full") as ranks:  # one is cut off: nothing of it is heard, and no connection closes
        machines.wait_for_more(ranks, saved)
        assert ranks[0].pid is not None
        os.kill(ranks[0].pid, signal.SIGSTOP)
        assert ended_within(ranks[1], SILENT_S + 15) == 75
    saved = machines.step()
    with machines.training("hybrid") as ranks:  # one is told that it will be pre-empted
        machines.wait_for_more(ranks, saved)
        assert ranks[1].pid is not None
        os.kill(ranks[1].pid, signal.SIGUSR1)
        assert [ended_within(rank, 30) for rank in ranks] == [75, 75]
    assert saved < machines.step() < STEPS
    with machines.training("none") as ranks:
        assert [ended_within(rank, 120) for rank in ranks] == [0, 0]
    made = find(machines.context.store, machines.recipe)
    assert made is not None and run_stages(machines.context, last="train").ran == []
    # and the same losses as a run in one process that nothing disturbed
    inputs = inputs_of(machines.context, "train")
    with inline_workers():
        straight = stage.run(replace(machines.context, salt="straight"), inputs, machines.recipe)
    disturbed = losses(machines, TrainFacts.of(made).metrics)
    assert len(disturbed) == STEPS
    assert disturbed == pytest.approx(losses(machines, TrainFacts.of(straight).metrics), rel=1e-5)


def test_torchrun_starts_the_ranks_again_and_they_resume(tmp_path: Path, tiny_model: Path) -> None:
    place = new_place(tmp_path, tiny_model)
    with inline_workers():
        run_stages(place.context(), last="encode_latents")
    machines = Machines(place)
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--nproc-per-node", "2", "--max-restarts", "1", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "flows.cli.main", "train-worker", str(machines.config)]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            deadline = time.monotonic() + 120
            while not machines.step():
                assert run.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            os.kill(_rank_1_of(run.pid), signal.SIGKILL)
            assert run.wait(120) == 0, (tmp_path / "log").read_text()
        finally:
            run.terminate()  # it ends its ranks
            run.wait(60)
    said = (tmp_path / "log").read_text()
    assert "lost the connection to another rank" in said and "resuming from step" in said and "trained: " in said
    assert find(machines.context.store, machines.recipe) is not None


def _rank_1_of(parent: int) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"{parent} has no rank 1")
