"""Which process of which machine, so that another one can tell whether it is still there."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sana.record import Record


@dataclass(frozen=True)
class ProcessId(Record):
    """A process: `host` names the machine since it was started, and the container, where `pid` counts."""

    host: str
    pid: int

    def is_gone(self) -> bool:
        """Return whether it is a process of this machine that has ended; of another machine nobody can tell."""
        if self.host != this_host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's process
            pass
        return _has_ended(self.pid)


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended and stays until its parent asks how, which in a container may be never."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # not Linux, or it has gone meanwhile, which is told the next time
        return False
    return state[:1] == ["Z"]


def this_process() -> ProcessId:
    """Return this process."""
    return ProcessId(this_host(), os.getpid())


def this_host() -> str:
    """Name this machine, since it was started, and this container: a pid is a process of those alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()
