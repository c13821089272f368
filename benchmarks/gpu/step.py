"""Seconds, MFU and memory of a training step by setting, each in a process of its own.

In each of them our step and the bare one take turns on one model, so that their ratio does not depend on what else the
machine does. Ours also draws, counts, measures norms and moves the EMA; neither reads (`loop` does). On a CPU seconds
are CPU seconds, those of the first step apart: other work on the machine counts less in them.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.apart import Measure, Numbers, apart
from benchmarks.gpu.sizes import WORK_DIR, Sizes
from benchmarks.paired_loop import BareLoop, optimizer_of, wait
from sana.costs.transformer import TransformerSizes
from sana.training.gauges.matmul_peak import matmul_peak_flops
from sana.training.peak_memory import PeakMemory
from sana.training.synthetic import SyntheticTraining

EAGER = "eager, recompute_all"  # what every other setting is compared with
SETTINGS: dict[str, dict[str, Any]] = {
    EAGER: {"compile": "never", "activation_memory": "recompute_all"},
    "eager, auto": {"compile": "never", "activation_memory": "auto"},
    "compiled, recompute_all": {"compile": "always", "activation_memory": "recompute_all"},
    "compiled, 0.4": {"compile": "always", "activation_memory": 0.4},
    "compiled, auto": {"compile": "always", "activation_memory": "auto"},
    "compiled, auto, EMA in the host's memory": {
        "compile": "always", "activation_memory": "auto", "ema_device": "cpu",
    },
    "offload, eager": {"offload": {"type": "block_level"}},
    "offload, eager, without a stream": {"offload": {"type": "block_level", "use_stream": False}},
}  # fmt: skip
GIB = 2**30


def measure(sizes: Sizes, setting: str) -> Numbers:
    """Train a few steps under a setting in this process. Seconds are medians over steps that took turns.

    `first_s` has the compilation in it; `ratio` is the median of the pairs' ratios; `mfu` is of the peak that a matrix
    product of the same dtype has; `kept` is the share of the activations that is kept.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    config = sizes.train_config(SETTINGS[setting])
    peak = PeakMemory(torch.device(sizes.device))
    training = SyntheticTraining(config, sizes.transformer, work_dir=WORK_DIR, bucket=sizes.bucket)
    batches = training.batches(sizes.bucket, sizes.caption_tokens)
    device = training.parallel.device
    ours = partial(training.take, batches)
    started = time.perf_counter()
    ours()
    first_s = time.perf_counter() - started
    ours()  # with what the first one left
    peak_bytes = peak.read()
    loop = BareLoop(training.trainable.model, optimizer_of(training.state), config, device)
    bare = partial(loop.step, next(batches))
    bare()  # warms up
    pairs = [(timed(ours, device), timed(bare, device)) for _ in range(sizes.num_steps)]
    dtype = torch.bfloat16 if sizes.precision == "bf16" else torch.float32
    flops = TransformerSizes.of(sizes.transformer).flops(sizes.bucket, caption_tokens=sizes.caption_tokens).training
    step_s = median(one for one, _ in pairs)
    return {
        "first_s": first_s,
        "step_s": step_s,
        "ratio": median(one / other for one, other in pairs),
        "mfu": flops / step_s / matmul_peak_flops(device, dtype, training.parallel.autocast),
        "peak_bytes": peak_bytes,
        "kept": training.blocks.settings.activations_kept,
    }


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of some work on a GPU, the CPU seconds of it on a CPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait(device)
    started = clock()
    work()
    wait(device)
    return clock() - started


def table(measure: Measure) -> Iterator[str]:
    """Yield the lines of the table, as they are measured."""
    yield "| setting | kept | s a step | against bare | against eager | MFU | peak GiB | first step, s |"
    yield "|---|---|---|---|---|---|---|---|"
    eager_s: float | None = None
    for setting in SETTINGS:
        found = measure(setting)
        if found is None:
            yield f"| {setting} | does not fit | | | | | | |"
            continue
        eager_s = found["step_s"] if setting == EAGER else eager_s
        faster = f"{eager_s / found['step_s']:.2f}x" if eager_s else ""
        yield (
            f"| {setting} | {found['kept']:g} | {found['step_s']:.3g} | {found['ratio']:.3f} | {faster} | "
            f"{found['mfu']:.0%} | {found['peak_bytes'] / GIB:.2f} | {found['first_s']:.3g} |"
        )


def main(sizes: Sizes) -> None:
    for line in table(apart(__name__, sizes)):
        print(line, flush=True)
