"""What does a checkpoint cost the step that it is made at? Every step is saved, while training waits and behind it.

    python -m benchmarks.checkpoint [MIB]

A state of MIB mebibytes (weights, EMA, two moments, float32; 512 unless named) and a step that computes for a while.
Stall: the time that the loop spends in saving. Copy: the one copy in memory, which a step cannot avoid. On a CPU the
thread that writes takes a core from the step itself, which a GPU's step does not notice.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.data.loading.epoch import Cursor
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint_manager import CheckpointManager
from sana.training.parallel.parallel import Parallel
from sana.training.state import TrainState
from sana.training.trainable import FullTransformer

WIDTH, STEPS = 1024, 8
STEP_S = 2.0  # of computing, at least: a checkpoint is written meanwhile


def config(background: bool) -> Config:
    settings = {"checkpoint_in_background": background, "max_checkpoints": 1, "device": "cpu"}
    sets = [f"train.resources.{name}={str(value).lower()}" for name, value in settings.items()]
    return load_config("configs/demo.yaml", [*sets, "train.mixed_precision=fp32"])


def compute(seconds: float) -> None:
    """Stand for a forward and backward pass."""
    matrix, until = torch.randn(512, 512), time.perf_counter() + seconds
    while time.perf_counter() < until:
        matrix @ matrix


def measure(folder: Path, mib: int, *, saving: bool, background: bool = True) -> tuple[float, float, float]:
    """Return the median seconds of a step, of the loop's wait for saving, and of a checkpoint to be complete."""
    made = config(background).train
    layers = max(mib * 2**20 // (4 * 4 * WIDTH * WIDTH), 1)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    state, parallel = TrainState(FullTransformer(model), made), Parallel.open(made)
    cursor = Cursor(np.zeros(64, np.int64), np.ones(64, np.float64), seed=0, batch_size=1)
    manager = CheckpointManager(
        LocalStore(str(folder / "root")), "t", folder=folder / "work", config=made, snapshot={}, keep_steps=(),
        check=lambda: None,
    )  # fmt: skip
    manager.restore()
    steps, stalls, written = [], [], []
    with manager:
        manager.resume(0, state)
        for _ in range(STEPS):
            started = time.perf_counter()
            compute(STEP_S)
            for parameter in state.parameters.values():
                parameter.grad = torch.zeros_like(parameter)
            state.advance(1e-3)
            before = time.perf_counter()
            if saving:
                manager.save(state, parallel, cursor)
            stalls.append(time.perf_counter() - before)
            steps.append(time.perf_counter() - started)
        before = time.perf_counter()
        manager.finish()
        written.append(time.perf_counter() - before)
    return median(steps), median(stalls), written[0]


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with tempfile.TemporaryDirectory() as name:
        bare, _, _ = measure(Path(name, "bare"), mib, saving=False)
        waiting, wait_stall, _ = measure(Path(name, "waiting"), mib, saving=True, background=False)
        behind, stall, written = measure(Path(name, "behind"), mib, saving=True)
    source = torch.zeros(mib * 2**18)
    target = torch.ones_like(source)
    started = time.perf_counter()
    target.copy_(source)
    copy_s = time.perf_counter() - started
    print(f"| a state of {mib} MiB, saved every step | step, ms | stall, ms | against bare |\n|---|---|---|---|")
    print(f"| no checkpoints | {bare * 1e3:.0f} | 0 | 1.00 |")
    print(f"| training waits | {waiting * 1e3:.0f} | {wait_stall * 1e3:.0f} | {waiting / bare:.2f} |")
    print(f"| behind training | {behind * 1e3:.0f} | {stall * 1e3:.0f} | {behind / bare:.2f} |")
    print(f"\nOne copy in memory takes {copy_s * 1e3:.0f} ms; the last checkpoint was complete {written:.1f} s after.")


if __name__ == "__main__":
    main()
