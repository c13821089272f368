"""What the trainer's loop costs over one that only computes."""

from pathlib import Path

import pytest

from benchmarks import train


@pytest.mark.slow(group="numbers")
def test_the_loop_takes_at_most_a_quarter_longer_than_a_bare_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of CPU time, which other work on this machine changes least; `python -m benchmarks.train` shows both."""
    monkeypatch.setattr(train, "WINDOWS", 11)
    found = train.measure(str(tiny_model), train.BUCKETS[0], tmp_path)
    assert 0.9 < found.cpu_ratio <= 1.25
