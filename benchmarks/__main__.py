"""`make bench`: all benchmarks, each in a process of its own."""

import subprocess
import sys

# train, evaluate, ranks, deciding and ui need a finished `make demo`
NAMES = (
    "probe",
    "seek",
    "windows",
    "hdr",
    "listing",
    "dry_run",
    "encode",
    "encode_rates",
    "loader",
    "epoch",
    "train",
    "checkpoint",
    "startup",
    "crepa",
    "evaluate",
    "report",
    "learning",
    "estimates",
    "deciding",
    "ranks",
    "ui",
)

for name in NAMES:
    print(f"\n{name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
