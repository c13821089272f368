"""Work in threads: in order, a bounded number of items ahead, and over at once when something fails."""

import threading
import time
from contextlib import closing

import pytest

from sana.runtime.threads import in_daemon_threads, in_threads


def test_results_keep_the_order_and_no_more_than_so_many_are_ahead() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.01 if item % 2 else 0.0)
        return item * item

    results = in_threads(work, iter(range(20)), num_threads=3, num_ahead=3)
    assert next(results) == 0
    time.sleep(0.1)
    assert max(started) <= 3
    assert list(results) == [item * item for item in range(1, 20)]
    assert not _threads()


@pytest.mark.parametrize("num_ahead", [0, 2])
def test_an_error_comes_at_its_place_and_nothing_more_is_started(num_ahead: int) -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        if item == 2:
            raise OSError("disk full")
        return item

    results = in_threads(work, range(100), num_threads=1, num_ahead=num_ahead)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="disk full"):
        next(results)
    assert max(started) <= 2 + num_ahead and not _threads()


def test_leaving_early_ends_the_threads() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        closing(in_threads(time.sleep, [0.01] * 100, num_threads=4, num_ahead=4)) as results,
    ):
        next(results)
        raise KeyboardInterrupt
    assert not _threads()


def test_leaving_daemon_threads_waits_for_none_of_them() -> None:
    ends, started = threading.Event(), []

    def work(item: int) -> int:
        started.append(item)
        assert item == 0 or ends.wait(10)
        return item

    begun = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        closing(in_daemon_threads(work, range(100), num_threads=2)) as results,
    ):
        assert next(results) == 0
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 5
    ends.set()
    time.sleep(0.1)
    assert len(started) <= 3, "nothing more is started"


def test_daemon_threads_give_results_and_errors_in_order() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 if item % 2 else 0.0)
        if item == 7:
            raise OSError("disk full")
        return item * item

    results = in_daemon_threads(work, range(20), num_threads=3)
    assert [next(results) for _ in range(7)] == [item * item for item in range(7)]
    with pytest.raises(OSError, match="disk full"):
        next(results)
    assert not list(in_daemon_threads(work, []))


def test_who_waits_is_called_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sana.runtime.threads.IDLE_S", 0.01)
    calls: list[None] = []
    assert list(in_threads(time.sleep, [0.1, 0.0], while_waiting=lambda: calls.append(None))) == [None, None]
    assert 2 <= len(calls) <= 11


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("in_threads")]
