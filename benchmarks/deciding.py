"""How long does it take to find that every stage is cached, against starting Python with pyarrow alone?

    python -m benchmarks.deciding

Needs a finished `make demo`. Best of five each; the last column is the ratio to the first row.
"""

import subprocess
import sys
import time

SANA = [sys.executable, "-m", "flows.cli.main"]
COMMANDS = {
    "python, import pyarrow.parquet": [sys.executable, "-c", "import pyarrow.parquet"],
    "sana --help": [*SANA, "--help"],
    "sana plan, all cached": [*SANA, "plan", "configs/demo.yaml"],
    "sana run, all cached": [*SANA, "run", "configs/demo.yaml"],
}


def seconds(command: list[str]) -> float:
    """Best wall time of five runs."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    measured = {name: seconds(command) for name, command in COMMANDS.items()}
    floor = next(iter(measured.values()))
    print("| command | seconds | ratio |\n|---|---|---|")
    for name, value in measured.items():
        print(f"| {name} | {value:.2f} | {value / floor:.1f} |")


if __name__ == "__main__":
    main()
