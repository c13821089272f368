"""Does the demo learn? The held-out eval loss before and after, for three seeds, by the command line a user types.

    python -m benchmarks.learning

Needs a finished `make demo`: data stages are found in storage, only training and evaluation run.
"""

import subprocess
import sys
from pathlib import Path

from sana.facts import BASELINE
from sana.runtime.results import EvalReport

SEEDS = (0, 1, 2)


def report_of(seed: int) -> EvalReport:
    """Run the demo with this seed and return its evaluation report."""
    command = [sys.executable, "-m", "flows.cli.main", "run", "configs/demo.yaml", "-s", f"train.seed={seed}"]
    done = subprocess.run([*command, "--until", "evaluate"], check=True, capture_output=True, text=True)
    key = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("evaluate"))
    return EvalReport.load(next(Path(".sana/store", key).glob(f"*/{EvalReport.FILE}")))


def main() -> None:
    print("| seed | weights | before | after | drop | paired difference | standard errors |")
    print("|---|---|---|---|---|---|---|")
    for seed in SEEDS:
        report = report_of(seed)
        for name in ("live", "ema"):
            before, after, pair = report.weights[BASELINE], report.weights[name], report.paired[name]
            assert pair.stderr is not None  # there are several samples
            print(
                f"| {seed} | {name} | {before.mean:.4f} | {after.mean:.4f} | {pair.relative_drop:.1%} | "
                f"{pair.difference:.4f} +- {pair.stderr:.4f} | {-pair.difference / pair.stderr:.0f} |"
            )


if __name__ == "__main__":
    main()
