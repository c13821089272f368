"""Work in threads: in order, a bounded number of items ahead, and over at once when something fails."""

import threading
import time
from contextlib import closing

import pytest

from sana.runtime.threads import in_threads


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


def test_who_waits_is_called_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sana.runtime.threads.IDLE_S", 0.01)
    calls: list[None] = []
    assert list(in_threads(time.sleep, [0.1, 0.0], while_waiting=lambda: calls.append(None))) == [None, None]
    assert 2 <= len(calls) <= 11


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("in_threads")]
