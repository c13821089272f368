"""What does a checkpoint cost the step that it is made at? Every step is saved, while training waits and behind it.

    python -m benchmarks.checkpoint [MIB]

A state of MIB mebibytes (weights, EMA, two moments, float32; 512 unless named) and a step that computes for a while.
Stall: the time that the loop spends in saving. Copy: the one copy in memory, which a step cannot avoid. On a CPU the
thread that writes takes a core from the step itself, which a GPU's step does not notice.

Reading back: the last checkpoint as a run that resumes reads it, every byte checked by its digest, against the same
files read and nothing done with them; both after the pages of the files were dropped from the cache.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from sana.atomic_io import read_at
from sana.config.training.train import TrainConfig
from sana.data.loading.epoch import Cursor
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint import checkpoint_steps, read_checkpoint
from sana.training.checkpoints.checkpoint_io import PARTS, load
from sana.training.checkpoints.checkpoint_manager import CheckpointManager
from sana.training.checkpoints.tensor_file import as_bytes
from sana.training.parallel.parallel import Parallel
from sana.training.state import TrainState
from sana.training.trainables.full_transformer import FullTransformer
from sana.wording import in_units

WIDTH, STEPS = 1024, 8
STEP_S = 2.0  # of computing, at least: a checkpoint is written meanwhile
READ_REPEATS = 5
WAYS = {"no checkpoints": None, "training waits": False, "behind training": True}  # written in the background


@dataclass(frozen=True)
class Measured:
    """Seconds: medians of a step and of the loop's wait for saving; the first such wait; the last checkpoint's rest."""

    step_s: float
    stall_s: float
    first_stall_s: float
    written_s: float


def linear_layers(mib: int) -> nn.Module:
    """Return a model whose state (weights, EMA, two moments) has so many MiB."""
    layers = max(mib * 2**20 // (4 * 4 * WIDTH * WIDTH), 1)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))


def compute(seconds: float, device: torch.device) -> None:
    """Stand for a forward and backward pass."""
    matrix, until = torch.randn(512, 512, device=device), time.perf_counter() + seconds
    while time.perf_counter() < until:
        matrix @ matrix
        wait(device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    folder: Path,
    model: nn.Module,
    *,
    background: bool | None,
    device: str = "cpu",
    num_steps: int = STEPS,
    step_s: float = STEP_S,
) -> Measured:
    """Save at every step of training a model that is on the device, in the `background` or not; None: never."""
    resources = {"checkpoint_in_background": bool(background), "max_checkpoints": 1, "device": device}
    settings = {"max_steps": num_steps, "global_batch_size": 1, "mixed_precision": "fp32", "resources": resources}
    config = TrainConfig.model_validate(settings)
    state, parallel = TrainState(FullTransformer(model), config), Parallel.open(config)
    cursor = Cursor(np.zeros(64, np.int64), np.ones(64, np.float64), seed=0, batch_size=1)
    manager = CheckpointManager(
        LocalStore(str(folder / "root")), "t", folder=folder / "work", config=config, snapshot={}, keep_steps=(),
        check=lambda: None,
    )  # fmt: skip
    manager.restore()
    steps, stalls = [], []
    with manager:
        manager.resume(0, state)
        for _ in range(num_steps):
            started = time.perf_counter()
            compute(step_s, parallel.device)
            for parameter in state.parameters.values():
                parameter.grad = torch.zeros_like(parameter)
            state.advance(1e-3)
            wait(parallel.device)
            before = time.perf_counter()
            if background is not None:
                manager.save(state, parallel, cursor)
            stalls.append(time.perf_counter() - before)
            wait(parallel.device)
            steps.append(time.perf_counter() - started)
        before = time.perf_counter()
        manager.finish()
        written_s = time.perf_counter() - before
    return Measured(median(steps), median(stalls), stalls[0], written_s)


def read_back(root: Path) -> tuple[float, float]:
    """Return the bytes a second of reading the newest checkpoint: as a run that resumes does, and its files alone."""
    store = LocalStore(str(root))
    (step,) = checkpoint_steps(store, "t")
    newest = read_checkpoint(store, "t", step)
    paths = [store.local_path(info.key) for info in newest.files.values()]
    total = sum(path.stat().st_size for path in paths)
    rates: dict[str, list[float]] = {"resume": [], "files": []}
    for _ in range(READ_REPEATS):  # in turns
        for way, found in rates.items():
            forget(paths)
            started = time.perf_counter()
            if way == "resume":
                for part in PARTS:
                    load(store, newest, part)
            else:
                for path in paths:
                    buffer = as_bytes(torch.empty(path.stat().st_size, dtype=torch.uint8))
                    with path.open("rb", buffering=0) as file:
                        read_at(file.fileno(), 0, buffer)
            found.append(total / (time.perf_counter() - started))
    return median(rates["resume"]), median(rates["files"])


def forget(paths: list[Path]) -> None:
    """Drop the pages of files from the system's cache: they are read from the disk again."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    model, found = linear_layers(mib), {}
    with tempfile.TemporaryDirectory() as name:
        for way, background in WAYS.items():
            found[way] = measure(Path(name, way), model, background=background)
        resume, files = read_back(Path(name, "behind training", "root"))
    source = torch.zeros(mib * 2**18)
    target = torch.ones_like(source)
    started = time.perf_counter()
    target.copy_(source)
    copy_s = time.perf_counter() - started
    print("\n".join(table(mib, found)))
    written_s = found["behind training"].written_s
    print(
        f"\nOne copy in memory takes {copy_s * 1e3:.0f} ms; the last checkpoint was complete {written_s:.1f} s after."
    )
    print(
        f"Read back and checked at {in_units(resume)}/s, its files alone at {in_units(files)}/s ({resume / files:.2f})."
    )


def table(mib: float, found: dict[str, Measured]) -> list[str]:
    """Return what was found, by WAYS, as lines of Markdown."""
    bare = found["no checkpoints"]
    lines = [f"| a state of {mib:.0f} MiB, saved every step | step, ms | stall, ms | against bare |\n|---|---|---|---|"]
    for way, one in found.items():
        lines.append(f"| {way} | {one.step_s * 1e3:.0f} | {one.stall_s * 1e3:.0f} | {one.step_s / bare.step_s:.2f} |")
    return lines


if __name__ == "__main__":
    main()
