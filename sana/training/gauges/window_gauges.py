"""What is measured once a log window, at its end, where the device is waited for anyway."""

from collections.abc import Sequence

import torch

from sana.training.gauges.memory import memory_peaks
from sana.training.gauges.throughput import CountedStep, Throughput


class WindowGauges:
    """The metrics of a log window's last row."""

    def __init__(self, throughput: Throughput, device: torch.device) -> None:
        self._throughput, self._device = throughput, device

    def read(self, steps: Sequence[CountedStep], seconds: float) -> dict[str, float]:
        """Return rates and memory of a window of steps that took so many seconds together."""
        return self._throughput.rates(steps, seconds) | memory_peaks(self._device)
