"""Each setting is measured in a process of its own: what one leaves in memory, or dies of, is gone with it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import BY_NAME, Sizes

_ROOT = Path(__file__).parents[2]

Numbers = dict[str, float]
Measure = Callable[[str], Numbers | None]  # of a setting by its name; None where it does not fit


def apart(module: str, sizes: Sizes) -> Measure:
    """Return what measures a setting by the `measure(sizes, setting)` of a module, in a process of its own.

    It raises SystemExit with the last lines of a process that failed for another reason than memory.
    """

    def measure(setting: str) -> Numbers | None:
        command = [sys.executable, "-m", "benchmarks.gpu.apart", module, sizes.name, setting]
        done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False)
        if done.returncode == 0:
            numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
            return numbers
        if "OutOfMemoryError" in done.stderr:
            return None
        raise SystemExit(f"{setting}: {done.stderr[-2000:]}")

    return measure


def here(measure: Callable[[Sizes, str], Numbers], sizes: Sizes) -> Measure:
    """Return the same for this process, such as a test."""
    return lambda setting: measure(sizes, setting)


def main() -> None:
    import importlib

    module, sizes, setting = sys.argv[1:]
    measured: Any = importlib.import_module(module).measure(BY_NAME[sizes], setting)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
