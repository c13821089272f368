"""The most memory that this process needed: by the allocator of a GPU, by resident pages on a CPU."""

import resource
import sys
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


class PeakMemory:
    """Measures from its creation on. On a CPU use a process of its own: what was once needed stays its peak."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._before = 0 if device.type == "cuda" else _resident_bytes()

    def read(self) -> int:
        """Return the peak in bytes, above what there was at first."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return max(0, _peak_bytes() - self._before)


def _resident_bytes() -> int:
    if not _STATM.exists():  # not Linux: an upper bound
        return _peak_bytes()
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
