"""Two "machines" with a network each, joined by a switch, whose cables can be pulled; as root, by `ip` of iproute2.

A machine is a network namespace with one interface, eth0, and its own loopback. A pulled cable loses every packet and
tells nobody: no connection closes, as when a machine loses power or its network.
"""

import asyncio
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.forked import start

_CLONE_NEWNET = 0x40000000
_FOLDER = Path("/var/run/netns")


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.getuid() or shutil.which("ip") is None:
        return "network namespaces need root and ip (apt-get install iproute2)"
    done = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "test0", "type", "bridge"], capture_output=True, text=True
    )
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else ""


class Network:
    """Machines 0 and 1, at 10.77.0.1 and 10.77.0.2, and their switch."""

    def __init__(self) -> None:
        self._names = [f"sana{os.getpid()}-{name}" for name in ("0", "1", "switch")]
        self._processes: list[BaseProcess] = []

    def address(self, machine: int) -> str:
        return f"10.77.0.{machine + 1}"

    def start(self, machine: int, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Start `target(*arguments)` in a process on a machine, which the end of the network ends."""
        process = start(_enter_and, self._names[machine], target, *arguments)
        self._processes.append(process)
        return process

    def pull(self, machine: int) -> None:
        """Pull a machine's cable out of the switch."""
        _ip("-n", self._names[2], "link", "set", f"port{machine}", "nomaster")

    def plug_in(self, machine: int) -> None:
        _ip("-n", self._names[2], "link", "set", f"port{machine}", "master", "switch")

    def _open(self) -> None:
        switch = self._names[2]
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for machine in (0, 1):
            name, port = self._names[machine], f"port{machine}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", port, "up")
            _ip("-n", name, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            self.plug_in(machine)

    def _close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for name in self._names:
            if (_FOLDER / name).exists():
                _ip("netns", "delete", name)


@contextmanager
def network() -> Iterator[Network]:
    """Make the machines and the switch, and remove them with all that runs there."""
    for left in _FOLDER.glob("sana*-*"):  # by a test run that was killed
        if not Path("/proc", left.name.removeprefix("sana").partition("-")[0]).exists():
            _ip("netns", "delete", left.name)
    made = Network()
    try:
        made._open()
        yield made
    finally:
        made._close()


def forward(address: str, port: int, unix_socket: str) -> None:
    """Give a machine a server that is outside: pass what comes to this address on to a socket that is a file."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # either end closed it
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(unix_socket)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    async def run() -> None:
        server = await asyncio.start_server(serve, address, port)
        await server.serve_forever()

    asyncio.run(run())


def _enter_and(name: str, target: Callable[..., None], *arguments: Any) -> None:
    fd = os.open(_FOLDER / name, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {name}")
    os.close(fd)
    target(*arguments)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
