"""The trainer's whole loop against the bare one: what reading, drawing, counting, EMA and metrics cost a step.

The two take turns on one model, eager and compiled: benchmarks.paired_loop. Neither saves or evaluates: these are
tables of their own.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import paired_loop
from benchmarks.gpu.apart import Measure, Numbers, apart
from benchmarks.gpu.sizes import WORK_DIR, Sizes
from benchmarks.made_up_store import Case, build
from sana.model.random_weights import random_transformer

WINDOWS, SAMPLES = 6, 12  # the first window warms up
EAGER = "eager, recompute_all"
SETTINGS: dict[str, dict[str, Any]] = {
    EAGER: {"compile": "never", "activation_memory": "recompute_all"},
    "compiled, auto": {"compile": "always", "activation_memory": "auto"},
}


def measure(sizes: Sizes, setting: str) -> Numbers:
    """Return seconds a step of our loop and of the bare one, and the ratio: medians over windows, which took turns.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    resources = {**SETTINGS[setting], "log_every": sizes.num_steps}
    config = sizes.train_config(resources, max_steps=WINDOWS * sizes.num_steps)
    channels = int(sizes.transformer["caption_channels"])
    torch.manual_seed(0)
    transformer = random_transformer(sizes.transformer, device=torch.device(sizes.device))
    with tempfile.TemporaryDirectory() as name:
        case = Case(str(sizes.bucket), SAMPLES, sizes.caption_tokens, caption_channels=channels)
        store, samples = build(str(Path(name) / "root"), case)
        found = paired_loop.measure(transformer, config, store, samples, folder=Path(name), cache=WORK_DIR)
    return found._asdict()


def table(measure: Measure) -> Iterator[str]:
    """Yield the lines of the table, as they are measured."""
    yield "| setting | bare loop, s a step | our whole loop | against bare | of CPU time | faster than our eager loop |"
    yield "|---|---|---|---|---|---|"
    eager_s: float | None = None
    for setting in SETTINGS:
        found = measure(setting)
        if found is None:
            yield f"| {setting} | does not fit | | | | |"
            continue
        eager_s = found["loop_s"] if setting == EAGER else eager_s
        faster = f"{eager_s / found['loop_s']:.2f}x" if eager_s else ""
        yield (
            f"| {setting} | {found['bare_s']:.3g} | {found['loop_s']:.3g} | {found['ratio']:.3f} | "
            f"{found['cpu_ratio']:.3f} | {faster} |"
        )


def main(sizes: Sizes) -> None:
    for line in table(apart(__name__, sizes)):
        print(line, flush=True)
