"""The watchdog over a validation: it tells that work goes on, and gives up what takes too long."""

import threading
import time

import pytest

from sana.training.validation import watchdog
from sana.training.validation.watchdog import Watchdog


def test_it_tells_while_work_goes_on_and_is_quiet_once_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TELL_EVERY_S", 0.02)
    told: list[float] = []
    with Watchdog(30.0, still_there=told.append, on_timeout=lambda: told.append(-1.0)):
        time.sleep(0.2)
    so_far = list(told)
    assert len(so_far) >= 3 and so_far == sorted(so_far) and -1.0 not in so_far
    time.sleep(0.1)
    assert told == so_far


def test_what_takes_too_long_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TELL_EVERY_S", 0.02)
    given_up, calls = threading.Event(), []

    def give_up() -> None:
        calls.append(time.monotonic())
        given_up.set()

    started = time.monotonic()
    with Watchdog(0.1, still_there=lambda _: None, on_timeout=give_up):
        assert given_up.wait(10)
        time.sleep(0.1)
    assert len(calls) == 1 and calls[0] - started >= 0.1


def test_an_error_of_the_work_is_not_held_up() -> None:
    with pytest.raises(KeyError), Watchdog(30.0, still_there=lambda _: None, on_timeout=lambda: None):
        raise KeyError
