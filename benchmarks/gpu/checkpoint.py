"""What a checkpoint at every step costs the steps: benchmarks.checkpoint, of the whole state of a model on the device.

Twice its bytes are needed on the disk of TMPDIR, and once in the host's memory.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import checkpoint
from benchmarks.gpu.apart import Measure, Numbers, apart
from benchmarks.gpu.sizes import Sizes
from sana.model.random_weights import random_transformer

STEP_S, STEPS = 1.0, 4  # about what a compiled step of the published model takes
_STATE_BYTES = 16  # a parameter: weights, EMA and two moments


def measure(sizes: Sizes, setting: str) -> Numbers:
    """Train with a checkpoint at every step, by a setting of benchmarks.checkpoint.WAYS."""
    model = random_transformer(sizes.transformer, device=torch.device(sizes.device))
    tiny = sizes.num_steps <= 2
    with tempfile.TemporaryDirectory() as folder:
        found = checkpoint.measure(
            Path(folder),
            model,
            background=checkpoint.WAYS[setting],
            device=sizes.device,
            num_steps=2 if tiny else STEPS,
            step_s=0.0 if tiny else STEP_S,
        )
    return {**asdict(found), "state_bytes": _STATE_BYTES * sum(p.numel() for p in model.parameters())}


def table(measure: Measure) -> Iterator[str]:
    """Yield the lines of the table, as they are measured."""
    yield "| a checkpoint at every step | step, s | stall, s | first stall, s | after the last step, s | against none |"
    yield "|---|---|---|---|---|---|"
    bare_s, state_bytes = None, 0.0
    for setting in checkpoint.WAYS:
        found = measure(setting)
        if found is None:
            yield f"| {setting} | does not fit | | | | |"
            continue
        bare_s, state_bytes = bare_s or found["step_s"], found["state_bytes"]
        yield (
            f"| {setting} | {found['step_s']:.2f} | {found['stall_s']:.2f} | {found['first_stall_s']:.2f} | "
            f"{found['written_s']:.2f} | {found['step_s'] / bare_s:.2f} |"
        )
    yield f"\nA checkpoint is of {state_bytes / 1e9:.3g} GB."


def main(sizes: Sizes) -> None:
    for line in table(apart(__name__, sizes)):
        print(line, flush=True)
