"""How long does training take to its first step, beside what importing torch and diffusers takes?

    python -m benchmarks.startup [REPEATS]

The tiny model on a synthetic store, all read before: seconds from the start of the worker's process to the line of
its first step, eager and with blocks that were compiled before, in turns with processes that import torch and diffusers
and no more. Medians; CPU seconds as well, which a busy machine moves less.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from sana.config.pipeline import Config
from sana.model.tiny_model import build_tiny_model
from sana.runtime.job import write_job
from sana.runtime.specs import ModelSource, TrainSpec
from tests.training_store import Encoded, build_encoded, train_config

IMPORTS = "import torch, diffusers"
REPEATS = 5


@dataclass
class Case:
    """Seconds of one kind of process: to its first step, or to its end."""

    name: str
    settings: dict[str, Any]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, wall_s: float, cpu_s: float) -> None:
        self.wall_s.append(wall_s)
        self.cpu_s.append(cpu_s)


def imports() -> tuple[float, float]:
    """Return wall and CPU seconds of a process that imports torch and diffusers."""
    started, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu_s


def first_step(encoded: Encoded, config: Config, model: Path, trajectory: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a training worker up to the line of its first step."""
    spec = TrainSpec(
        ModelSource(str(model), None), encoded.latents, encoded.captions, trajectory,
        fingerprint=f"{trajectory}{config.train.max_steps}", keep_steps=(), draws_per_epoch={},
    )  # fmt: skip
    job = write_job(config, spec)
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "sana.workers.train", str(job)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        wall_s = cpu_s = 0.0
        log = []
        for line in process.stderr:
            log.append(line)
            if " of " in line and "s per step" in line and not wall_s:
                wall_s, cpu_s = time.perf_counter() - started, _cpu_s(process.pid)
        process.wait()
    assert process.returncode == 0 and wall_s, "".join(log)
    return wall_s, cpu_s


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, its threads' included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    cases = [Case("eager", {}), Case("compiled", {"compile": "always"})]
    imported = Case(IMPORTS, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tiny"
        build_tiny_model(model)
        encoded = build_encoded(folder / "root")
        for number in range(repeats + 1):  # the first warms up: files, and the cache of compiled blocks
            found = imports()
            if number:
                imported.add(*found)
            for case in cases:
                config = train_config(
                    encoded, folder / "work", model, max_steps=1, log_every=1, checkpoint_every=100, **case.settings
                )
                found = first_step(encoded, config, model, f"{case.name}-{number}")
                if number:
                    case.add(*found)
    print(f"| {len(imported.wall_s)} runs each, medians | s | over the imports | CPU s | over the imports |")
    print("|---|---|---|---|---|")
    base, base_cpu = median(imported.wall_s), median(imported.cpu_s)
    print(f"| `{IMPORTS}` | {base:.1f} | | {base_cpu:.1f} | |")
    for case in cases:
        wall, cpu = median(case.wall_s), median(case.cpu_s)
        print(f"| first step, {case.name} | {wall:.1f} | {wall - base:.1f} | {cpu:.1f} | {cpu - base_cpu:.1f} |")


if __name__ == "__main__":
    main()
