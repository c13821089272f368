"""Ranks that meet: who is missing is told, a wait has an end, and an earlier start is not taken for this one."""

import logging
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from sana.errors import ConfigError, RankLostError
from sana.training.parallel.distributed import _require_gpus
from sana.training.parallel.joining import MeetingPlace, Wait, meet
from tests.loopback_servers import free_port

HERE = "127.0.0.1"


class Ranks:
    """Ranks that are threads, each of which waits for so many seconds."""

    def __init__(self, num_ranks: int, wait_s: float, port: int | None = None, *, of_torchrun: bool = False) -> None:
        self.num_ranks, self.wait_s, self.port = num_ranks, wait_s, port or free_port()
        self.of_torchrun = of_torchrun
        self._threads = ThreadPoolExecutor(num_ranks)

    def start(self, rank: int) -> "Future[TCPStore]":
        place = MeetingPlace(HERE, self.port, Wait(self.wait_s, say_every_s=0.2), of_torchrun=self.of_torchrun)
        return self._threads.submit(meet, rank, self.num_ranks, place)


def test_ranks_that_come_late_are_waited_for_and_told(caplog: pytest.LogCaptureFixture) -> None:
    ranks = Ranks(3, 20)
    early = [ranks.start(1)]
    with pytest.raises(TimeoutError):
        early[0].result(0.8)
    early.append(ranks.start(0))
    with pytest.raises(TimeoutError):
        early[1].result(0.8)
    stores = [one.result(10) for one in [*early, ranks.start(2)]]
    stores[0].set("key", "value")
    assert stores[2].get("key") == b"value"
    assert f"rank 1: rank 0 does not answer at {HERE}:{ranks.port}; waiting for " in caplog.text
    name = socket.gethostname()
    assert f"2 of 3 ranks have come: rank 0 on {name}, rank 1 on {name}; missing: rank 2; waiting for " in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize(
    ("starting", "said"),
    [
        ([0, 1], ["2 of 3 ranks have come: rank 0 on", "missing: rank 2 within 1 s"]),
        ([0], ["1 of 3 ranks have come", "missing: rank 1, rank 2 within 1 s"]),
        ([1], ["rank 0 of this start did not answer at", "within 1 s"]),
    ],
)
def test_who_never_came_is_named_with_the_setting(starting: list[int], said: list[str]) -> None:
    ranks = Ranks(3, 1)
    first, *others = [ranks.start(rank) for rank in starting]
    with pytest.raises(RankLostError, match=r"train\.resources\.rendezvous_timeout_s") as told:
        first.result(10)
    assert all(part in str(told.value) for part in said)
    for other in others:
        assert isinstance(other.exception(10), RankLostError)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((HERE, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RankLostError, match=f"cannot listen at {HERE}:{port}.*MASTER_PORT"):
            Ranks(2, 5, port).start(0).result(10)


def test_a_rank_that_is_back_before_the_earlier_start_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    earlier = Ranks(2, 20)
    stores = [one.result(10) for one in (earlier.start(0), earlier.start(1))]
    later = Ranks(2, 20, earlier.port)
    back = later.start(1)
    with pytest.raises(TimeoutError):
        back.result(0.8)
    assert "an earlier start has not ended yet" in caplog.text
    stores.clear()  # its rank 0 ends
    del earlier
    new = later.start(0).result(10)
    new.set("key", "new")
    found = back.result(10)
    found.set_timeout(timedelta(seconds=5))
    assert found.get("key") == b"new"


@pytest.mark.parametrize(
    ("num_gpus", "device", "by_launcher", "refused"),
    [
        (1, "auto", True, True),
        (1, "cuda", True, True),
        (2, "auto", True, False),
        (1, "cpu", True, False),
        (0, "auto", True, False),  # a CPU trains
        (1, "auto", False, False),  # srun may show each rank its own GPU
    ],
)
def test_ranks_without_a_gpu_each_are_refused(
    num_gpus: int, device: str, by_launcher: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("SANA_PARENT_PID", raising=False)
    if by_launcher:
        monkeypatch.setenv("SANA_PARENT_PID", "1")
    with pytest.raises(ConfigError, match=r"num_processes is 2, .* sees 1 GPUs") if refused else nullcontext():
        _require_gpus(device)


@pytest.mark.parametrize("earlier", [True, False])
def test_under_torchrun_the_store_of_an_earlier_start_is_not_taken_for_this_ones(
    caplog: pytest.LogCaptureFixture, earlier: bool
) -> None:
    agents = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    if earlier:
        agents.set("sana/store_port", str(free_port()))  # where nobody answers any more
    ranks = Ranks(2, 20, agents.port, of_torchrun=True)
    other = ranks.start(1)
    with pytest.raises(TimeoutError):
        other.result(0.8)
    assert f"rank 1: rank 0 does not answer at {HERE}:" in caplog.text
    first = ranks.start(0).result(10)
    first.set("key", "value")
    assert other.result(10).get("key") == b"value"
    assert first.port != agents.port
