"""The rates of the VAE, of the stage and of captions: benchmarks.encode_rates, which chooses models by the device."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.sizes import Sizes


def main(sizes: Sizes) -> None:
    unseen = {"CUDA_VISIBLE_DEVICES": ""} if sizes.device == "cpu" else {}
    command = [sys.executable, "-m", "benchmarks.encode_rates"]
    done = subprocess.run(command, check=False, env={**os.environ, **unseen}, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise SystemExit(f"its process ended with {done.returncode}")
