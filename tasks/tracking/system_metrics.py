"""Load and memory of this machine while a stage works, under the names that MLflow's own monitor gives them."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from sana.metrics import STEP

MIB = 2**20
log = logging.getLogger(__name__)


class SystemMetrics:
    """Reads the machine in a thread of its own; the step of a reading is seconds since `started_s` (Unix time).

    A reading takes milliseconds; the first comes after one interval, so that short stages have none.
    """

    def __init__(self, *, every_s: float, started_s: float, tell: Callable[[list[Mapping[str, float]]], None]) -> None:
        self._every_s, self._started_s, self._tell = every_s, started_s, tell
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the readings; returns within a reading's time."""
        self._end.set()
        self._thread.join(2.0)

    def _work(self) -> None:
        gpus = _gpus()
        before = _totals()
        psutil.cpu_percent()  # the first call only begins to measure
        while not self._end.wait(self._every_s):
            try:
                row, before = _reading(before)
                for number, gpu in enumerate(gpus):
                    row |= _of_gpu(number, gpu)
            except (psutil.Error, OSError) as error:
                log.info("this machine's load is not recorded: %s", error)
                return
            self._tell([{STEP: float(int(time.time() - self._started_s)), **row}])


def _totals() -> dict[str, float]:
    network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
    totals = {"network_receive": network.bytes_recv, "network_transmit": network.bytes_sent} if network else {}
    return totals | ({"disk_read": disk.read_bytes, "disk_write": disk.write_bytes} if disk else {})


def _reading(before: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return one reading, and the totals that the next one is counted from."""
    memory = psutil.virtual_memory()
    row = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MIB,
        "system/system_memory_usage_percentage": memory.percent,
    }
    now = _totals()
    row |= {f"system/{name}_megabytes": (now[name] - before[name]) / MIB for name in now if name in before}
    return row, now


def _gpus() -> list[Any]:
    """Return NVML's handles of the GPUs; none where there is no driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _of_gpu(number: int, handle: Any) -> dict[str, float]:
    """Return what NVML says of a GPU; a card that has no such counter, as a slice of one, leaves it out."""
    import pynvml

    readings: dict[str, Callable[[], float]] = {
        "utilization_percentage": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_usage_megabytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / MIB,
        "power_usage_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    row: dict[str, float] = {}
    for name, read in readings.items():
        try:
            row[f"system/gpu_{number}_{name}"] = float(read())
        except pynvml.NVMLError:
            continue
    return row
