"""Which machine this is, without torch: the name of its GPU (or CPU) and the memory of that."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sana.record import Record

_TIMEOUT_S = 20.0  # of nvidia-smi, whose driver may hang
_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes")  # of versions 2 and 1


@dataclass(frozen=True)
class Machine(Record):
    """What measurements hold for: a device, and the torch that used it. `memory_bytes` is 0 where it is not known."""

    device: str
    memory_bytes: int
    torch: str
    is_gpu: bool


def this_machine(device: str = "auto") -> Machine:
    """Return the first GPU of this machine, or its CPU where there is none or `device` is cpu."""
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = ""
    gpu = None if device == "cpu" else _first_gpu()
    if gpu is not None:
        return Machine(*gpu, torch_version, is_gpu=True)
    return Machine(f"{_cpu_name()}, {os.cpu_count()} threads", host_memory(), torch_version, is_gpu=False)


def _first_gpu() -> tuple[str, int] | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return None
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    chosen = ["-i", visible.split(",")[0].strip()] if visible else []
    query = [command, *chosen, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, mebibytes = done.stdout.partition("\n")[0].rpartition(",")
    if done.returncode or not name.strip():
        return None
    return name.strip(), int(mebibytes) * _MIB if mebibytes.strip().isdigit() else 0


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def host_memory() -> int:
    """Return the memory that this process may have: the machine's, or less where a container has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        text = limit.read_text().strip() if limit.exists() else ""
        total = min(total, int(text)) if text.isdigit() else total
    return total
