"""Seconds a noise level of an evaluation, eager and compiled, against the bare forward: benchmarks.evaluate's rows."""

from collections.abc import Iterator

import torch

from benchmarks import evaluate
from benchmarks.gpu.apart import Measure, Numbers, apart
from benchmarks.gpu.sizes import WORK_DIR, Sizes
from sana.model.random_weights import random_transformer
from sana.training.compute.blocks import prepare_blocks
from sana.training.parallel.parallel import Parallel

SETTINGS = {"eager": "never", "compiled": "always"}


def measure(sizes: Sizes, setting: str) -> Numbers:
    """Return seconds a level, the bare forward's first; evaluation takes as many at once as it chooses to.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    config = sizes.train_config({"compile": SETTINGS[setting]})
    parallel = Parallel.open(config)
    torch.manual_seed(0)
    transformer = random_transformer(sizes.transformer, device=parallel.device)
    prepare_blocks(transformer, config, parallel, buckets=(), work_dir=WORK_DIR)
    turns, samples = (evaluate.TURNS, evaluate.NUM_SAMPLES) if sizes.num_steps > 2 else (1, 1)
    return evaluate.measure(transformer, parallel, str(sizes.bucket), at_once=(), num_samples=samples, turns=turns)


def table(measure: Measure) -> Iterator[str]:
    """Yield the lines of the table, as they are measured."""
    yield "| forward | what | s a level | against bare |"
    yield "|---|---|---|---|"
    for setting in SETTINGS:
        found = measure(setting)
        if found is None:
            yield f"| {setting} | does not fit | | |"
            continue
        for name, seconds in found.items():
            yield f"| {setting} | {name} | {seconds:.3g} | {seconds / found[evaluate.BARE]:.2f} |"


def main(sizes: Sizes) -> None:
    for line in table(apart(__name__, sizes)):
        print(line, flush=True)
