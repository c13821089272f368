"""The lease: one holder, taken over when its holder is gone."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sana.errors import SanaError
from sana.runtime.process_id import this_host
from sana.store import Store, open_store
from sana.store_errors import StoreError
from sana.training.checkpoints import lease


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def claim(store: Store, number: int, **changes) -> None:
    made = lease.Claim(**{"owner": "x", "host": "elsewhere", "pid": 1, "heartbeat_at": time.time(), **changes})
    store.put_if_absent(f"train/t/lease/{number:08d}.json", made.to_json())


def test_only_one_holds_it_and_it_can_be_held_again(store: Store) -> None:
    with lease.hold_lease(store, "t") as first, pytest.raises(SanaError, match=f"{os.getpid()}.*already"):
        first.check()
        with lease.hold_lease(store, "t"):
            pass
    with lease.hold_lease(store, "t"), lease.hold_lease(store, "other"):
        pass
    assert store.list("train/t/lease") == []


def test_a_claim_that_cannot_be_read_is_not_taken_for_none(store: Store) -> None:
    store.put_if_absent("train/t/lease/00000003.json", b'{"format": 1, "owner": "x"}')
    with (
        pytest.raises(SanaError, match=r"00000003.json is damaged: host: .*remove it if nobody"),
        lease.hold_lease(store, "t"),
    ):
        pass


def test_a_recent_claim_of_another_machine_holds_and_an_expired_one_is_taken_over(store: Store) -> None:
    claim(store, 7)
    with pytest.raises(SanaError, match="x is training t already"), lease.hold_lease(store, "t"):
        pass
    store.delete("train/t/lease/00000007.json")
    claim(store, 8, heartbeat_at=time.time() - lease.EXPIRES_S - 1)
    with lease.hold_lease(store, "t"):
        assert [key for key, _ in store.list("train/t/lease")] == ["train/t/lease/00000009.json"]


def test_a_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(store: Store) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    claim(store, 1, host=this_host(), pid=int(dead.stdout))
    with lease.hold_lease(store, "t"):
        assert store.list("train/t/lease")[-1][0] == "train/t/lease/00000002.json"
    # of another container with this one's name the pid says nothing
    claim(store, 3, host=f"{socket.gethostname()} 6d1c-another-boot pid:[4026531836]", pid=int(dead.stdout))
    with pytest.raises(SanaError, match="x is training t already"), lease.hold_lease(store, "t"):
        pass


def test_a_holder_whose_claim_is_damaged_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with lease.hold_lease(store, "t") as mine:
        number = int(store.list("train/t/lease")[-1][0][-13:-5])
        for ahead in range(1, 400):
            store.put_if_absent(f"train/t/lease/{number + ahead:08d}.json", b"{")
        deadline = time.monotonic() + 10
        while not mine._lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(SanaError, match="cannot be read back: .*damaged"):
            mine.check()


def test_a_holder_that_was_taken_over_gets_an_error_and_keeps_the_others_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with lease.hold_lease(store, "t") as mine:
        number = int(store.list("train/t/lease")[-1][0][-13:-5])
        for ahead in range(1, 400):  # beat it to one of its next numbers
            claim(store, number + ahead)
        deadline = time.monotonic() + 10
        while not mine._lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(SanaError, match="took over"):
            mine.check()
    assert len(store.list("train/t/lease")) >= 390


def test_only_one_of_many_concurrent_trainers_gets_the_lease(store: Store) -> None:
    won, gate = [], threading.Barrier(8)

    def contend() -> None:
        gate.wait()
        try:
            with lease.hold_lease(store, "t"):
                won.append(1)
                time.sleep(1.0)
        except SanaError:
            pass

    threads = [threading.Thread(target=contend) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(won) == 1


def test_a_holder_outlives_storage_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One heartbeat gets no answer, one gets through unseen; the lease is kept and still renewed."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    put, calls = type(store).put_if_absent, iter(range(10**6))

    def put_or_fail(self: Store, key: str, data: bytes) -> bool:
        call = next(calls)
        if call == 3:
            put(self, key, data)
        if call in (2, 3):
            raise StoreError("s3://b/k: no connection")
        return put(self, key, data)

    monkeypatch.setattr(type(store), "put_if_absent", put_or_fail)
    with lease.hold_lease(store, "t") as mine:
        deadline = time.monotonic() + 10
        while mine._number < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        mine.check()
        assert mine._number >= 6 and "could not be renewed" in caplog.text
    assert store.list("train/t/lease") == []


@pytest.mark.parametrize("num_heartbeats", [0, 1, 3])
def test_a_holder_that_slept_while_another_took_over_has_lost_it(store: Store, num_heartbeats: int) -> None:
    slept, holder = lease.Lease(store, "lease", 0), lease.Lease(store, "lease", 1)
    assert slept._claim() and holder._claim()
    for _ in range(num_heartbeats):  # each deletes the number before, which is then free again
        assert holder._claim()
    assert not slept._claim()
    assert holder._claim()
    assert [key for key, _ in store.list("lease")] == [f"lease/{num_heartbeats + 3:08d}.json"]
