"""Two "machines", a root on S3: one is killed, hangs, is cut off or pre-empted, and the run ends as if not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sana.artifact import find
from sana.facts import TrainFacts
from sana.training.parallel.heartbeat import SILENT_S
from tests.machines import STEPS, Machines, ended_within, losses, straight_losses
from tests.namespaces import forward, network, why_not
from tests.pipeline_runs import ROOT, inline_workers, new_place, run_stages
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow(group="ranks")
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
    with machines.training("full") as ranks:  # one hangs: nothing of it is heard, and no connection closes
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
    disturbed = losses(machines, TrainFacts.of(made).metrics)
    assert len(disturbed) == STEPS
    assert disturbed == pytest.approx(straight_losses(machines), rel=1e-5)


@pytest.mark.slow(group="cut_off")
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_machine_whose_cable_is_pulled(tmp_path: Path, tiny_model: Path, s3: WeedServer, s3_root: str) -> None:
    place = new_place(tmp_path, tiny_model, root=s3_root)
    with inline_workers():
        run_stages(place.context(), last="encode_latents")
    with network() as net:
        here, port = net.address(0), 9000
        net.start(0, forward, here, port, s3.socket)
        environ = {"MASTER_ADDR": here, "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0"}
        environ |= {"AWS_ENDPOINT_URL": f"http://{here}:{port}", "NO_PROXY": f"127.0.0.1,{here}"}
        machines = Machines(place, start=net.start, environ=environ)
        with machines.training("none") as ranks:
            machines.wait_for_more(ranks, 0)
            net.pull(1)  # it reaches neither the other rank nor storage
            assert [ended_within(rank, SILENT_S + 20) for rank in ranks] == [75, 75]
        saved = machines.step()
        assert 0 < saved < STEPS
        net.plug_in(1)
        with machines.training("none") as ranks:
            assert [ended_within(rank, 150) for rank in ranks] == [0, 0]
    made = find(machines.context.store, machines.recipe)
    assert made is not None
    assert losses(machines, TrainFacts.of(made).metrics) == pytest.approx(straight_losses(machines), rel=1e-5)


@pytest.mark.slow(group="ranks")
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
