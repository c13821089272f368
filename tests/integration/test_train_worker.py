"""`sana train-worker`: commits what the stage would, says what is missing, and ends with a code of its own."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
import yaml

from flows.cli.main import main
from sana.artifact import find
from sana.errors import RankLostError
from sana.pipeline.plan import inputs_of
from sana.runs.listing import runs_of
from sana.stages import train as stage
from sana.training.checkpoints.checkpoint import newest_checkpoint
from sana.training.checkpoints.lease import Claim
from sana.training.parallel import heartbeat
from sana.training.parallel.distributed import StopFlag, lost_rank_explained
from sana.training.train_step import TrainStep
from tests.loopback_servers import free_port
from tests.pipeline_runs import Place, run_stages

pytestmark = pytest.mark.timeout(120)

STEPS = "train.max_steps=4"


def worker(place: Place, *overrides: str, rank: int = 0, num_ranks: int = 1) -> int:
    """Run the command as one rank, of which no other is started; returns its exit code."""
    path = place.folder / "config.yaml"
    path.write_text(yaml.safe_dump(place.config(*overrides).model_dump(mode="json")), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(num_ranks))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free_port()))
        try:
            main(["train-worker", str(path)])
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_it_commits_the_artifact_of_the_stage(
    place: Place, own_sigterm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker(place, STEPS) == 0
    context = place.context(STEPS)
    recipe = stage.recipe(context, inputs_of(context, "train"))
    made = find(context.store, recipe)
    assert made is not None and made.fingerprint in capsys.readouterr().out
    assert run_stages(context, last="train").ran == []
    assert worker(place, STEPS) == 0 and find(context.store, recipe) == made
    # rank 0 leaves the record of a run, by which `sana watch CONFIG` finds it; the second start had nothing to do
    [run] = runs_of(context.store)
    assert (run.state(0.0), run.started.title, run.trajectory) == ("completed", "config", stage.trajectory_of(recipe))
    assert run.status is not None and run.status.stages["train"].fingerprint == made.fingerprint
    capsys.readouterr()
    main(["watch", str(place.folder / "config.yaml"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["run_id"], shown["stages"][0]["done"]) == ("completed", run.run_id, 4)
    assert shown["curves"]["train/loss"]["steps"]


def test_a_missing_input_is_named_with_the_command(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker(place, "encode_latents.vae_precision=bf16") == 1
    said = capsys.readouterr().err
    assert "train reads what encode_latents makes" in said and "config.yaml --until encode_latents" in said


@pytest.mark.parametrize(
    ("rank", "said"),
    [(0, "1 of 2 ranks have come: rank 0 on"), (1, "rank 0 of this start did not answer at 127.0.0.1:")],
)
def test_a_rank_whose_others_never_come_says_so_and_may_be_started_again(
    place: Place, capsys: pytest.CaptureFixture[str], rank: int, said: str
) -> None:
    settings = (STEPS, "train.seed=7", "train.resources.rendezvous_timeout_s=1")
    assert worker(place, *settings, rank=rank, num_ranks=2) == 75
    told = capsys.readouterr().err
    assert f"error: {said}" in told and "within 1 s (train.resources.rendezvous_timeout_s)" in told


def test_the_claim_of_a_machine_that_died_is_no_mistake_of_the_user(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (STEPS, "train.seed=8")
    context = place.context(*settings)
    trajectory = stage.trajectory_of(stage.recipe(context, inputs_of(context, "train")))
    key = f"train/{trajectory}/lease/00000001.json"
    context.store.put_if_absent(key, Claim("dead", "another-machine", 1, time.time()).to_json())
    assert worker(place, *settings) == 75 and "dead is training" in capsys.readouterr().err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code_however_often_it_comes(
    place: Place, own_sigterm: None, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, code: int
) -> None:
    take: Callable = TrainStep.take

    def taken(self: TrainStep, *args: object) -> object:
        step = take(self, *args)
        if step.step == 3:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)
        return step

    settings = (STEPS, f"train.seed={signum}", "train.resources.checkpoint_every=100")
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "take", taken)
        assert worker(place, *settings) == code
    context = place.context(*settings)
    recipe = stage.recipe(context, inputs_of(context, "train"))
    saved = newest_checkpoint(context.store, stage.trajectory_of(recipe), at_most=100)
    assert saved is not None and saved.step == 3 and find(context.store, recipe) is None
    run = next(run for run in runs_of(context.store) if run.trajectory == stage.trajectory_of(recipe))
    by = {75: "", 143: " by SIGTERM", 130: " by Ctrl-C"}[code]
    assert run.ended is not None and run.ended.state == "stopped"
    assert run.ended.error == f"stopped{by} at stage train, step 3; run the same command again"


def test_the_largest_code_is_that_of_all() -> None:
    flag = StopFlag(1)
    assert not flag.agreed()
    flag.request(75)
    flag.request(143)
    flag.request(75)
    assert flag.agreed() and flag.exit_code == 143


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2", True),
        ("[/x/gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:2: Connection reset by peer", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_what_torch_says_of_a_lost_rank_is_explained(message: str, lost: bool) -> None:
    told = pytest.raises(RankLostError if lost else RuntimeError, match="newest checkpoint" if lost else "size")
    with told, lost_rank_explained(2):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError), lost_rank_explained(1):
        raise RuntimeError(message)


def test_a_silent_rank_is_noticed_and_a_busy_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)
    monkeypatch.setattr(heartbeat.distributed_c10d, "_get_default_store", lambda: store)
    lost: dict[int, int] = {}
    told = threading.Event()

    def note(by: int, silent: int) -> None:
        lost[by] = silent
        told.set()

    ranks = [
        heartbeat.Heartbeat(rank, 3, silent_s=1.0, on_lost=lambda silent, by=rank: note(by, silent))
        for rank in range(3)
    ]
    time.sleep(2.0)  # twice as long as a silence may be, while this thread does nothing
    assert not lost
    ranks[2].stop()
    assert told.wait(5) and lost == {0: 2}  # rank 0 listens to all; rank 1 to rank 0 only
    ranks[0].stop()
    told.clear()
    assert told.wait(5) and lost == {0: 2, 1: 0}
    ranks[1].stop()
