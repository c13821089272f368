"""The memory that this process needed so far, as metrics."""

from pathlib import Path

import torch

from sana import metrics as m

_STATUS = Path("/proc/self/status")


def memory_peaks(device: torch.device) -> dict[str, float]:
    """Return peaks since the start of the process; the allocator's count waits for no kernel."""
    peaks = {}
    if device.type == "cuda":
        peaks[m.GPU_ALLOCATED_PEAK_GIB] = torch.cuda.max_memory_allocated(device) / 2**30
        peaks[m.GPU_RESERVED_PEAK_GIB] = torch.cuda.max_memory_reserved(device) / 2**30
    if _STATUS.exists():  # elsewhere than on Linux there is no peak of this process alone
        resident = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        peaks[m.HOST_PEAK_GIB] = int(resident.split()[1]) / 2**20
    return peaks
