"""The port at which the ranks of one machine meet, seconds after it was chosen."""

import socket

import pytest

from sana.runtime import launcher
from sana.runtime.launcher import WorkerError


def test_ranks_meet_at_a_free_port_that_no_outgoing_connection_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {launcher._environments(2)[0]["MASTER_PORT"] for _ in range(4)}
    assert len(ports) > 1, "two runs that start together would meet"
    assert all(20_000 <= int(port) < 30_000 for port in ports)  # Linux gives 32768 and above
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(launcher, "_PORTS", range(taken, taken + 1))
        with pytest.raises(WorkerError, match=f"none of {taken} to {taken} is free"):
            launcher._environments(2)
