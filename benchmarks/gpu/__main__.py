"""What this machine's GPU gives, as Markdown for docs/benchmarks.md; each table against the bare work in the same run.

    python -m benchmarks.gpu [PART ...] [--sizes published|cpu|tiny]

Parts: step, loop, eval, checkpoint, export, encode; all of them unless named. Without --sizes a GPU trains the
published sizes with random weights, a CPU a model that it can train: the same code. Neither weights nor clips are
needed. Compiled code is kept under `.sana/gpu`, so a second run starts faster. TMPDIR needs 80 GB for the published
sizes, of which `checkpoint` takes most.
"""

import argparse
import importlib
import sys

import torch

from benchmarks.gpu.machine import heading
from benchmarks.gpu.sizes import BY_NAME

# by module of this package; each has `main(sizes)`
PARTS = {
    "step": "step",
    "loop": "loop",
    "eval": "evaluation",
    "checkpoint": "checkpoint",
    "export": "export",
    "encode": "encode",
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sizes", choices=BY_NAME, default="published" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; parts are {', '.join(PARTS)}")
    sizes = BY_NAME[options.sizes]
    if sizes.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --sizes cpu prints the same tables of a model that a CPU can train")
    print(heading(sizes), flush=True)
    failed = []
    for part in options.parts or PARTS:
        print(f"\n### {part}\n", flush=True)
        module = importlib.import_module(f"benchmarks.gpu.{PARTS[part]}")
        try:
            module.main(sizes)
        except SystemExit as error:  # of a process: the other parts can still be measured
            failed.append(part)
            print(f"\n{part} failed: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
