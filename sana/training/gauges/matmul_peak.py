"""The measured peak of the device: what MFU is measured by."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

MATMUL_SIDE = {"cuda": 8192, "cpu": 512}  # on a CPU so small that it takes a hundredth of a second
_REPEATS = 5


def matmul_peak_flops(
    device: torch.device, dtype: torch.dtype, math: Callable[[], AbstractContextManager[None]]
) -> float:
    """Return FLOP/s of the fastest of a few square matrix products, in the dtype and the float32 math of training.

    The side is that of MATMUL_SIDE. Takes milliseconds and, on a GPU, 0.4 GiB (0.8 in float32), free afterwards.
    """
    side = MATMUL_SIDE.get(device.type, MATMUL_SIDE["cpu"])
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    with math():
        torch.mm(a, b, out=out)  # warms up
        fastest_s = min(_seconds_of(lambda: torch.mm(a, b, out=out), device) for _ in range(_REPEATS))
    return float(2 * side**3 / fastest_s)


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
