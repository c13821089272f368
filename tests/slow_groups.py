"""The slow tests in groups of a few minutes each, of which CI runs one: which, the commit's hash decides.

    python -m tests.slow_groups              # run the group of HEAD, as .ci/run does
    python -m tests.slow_groups --list       # name the groups, and say which is that of HEAD
    python -m tests.slow_groups --group seek # run this one

`make test-slow` runs them all. A slow test names its group in its marker: `@pytest.mark.slow(group="seek")`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what each proves; none takes more than four minutes on an idle machine of 2 cores
GROUPS = {
    "kills": "kill -9 at twenty random moments of probe, bucket and encode_latents, on a disk",
    "kills_s3": "kill -9 at twenty random moments of encode_latents on S3, and of a whole tree of training processes",
    "stores": "gc beside what is old or encodes, uploads of 100 MB",
    "s3_away": "S3 away for a minute, and for good, while a checkpoint is uploaded",
    "two_runs": "the real command twice at once on one root",
    "prefect": "runs of the encode-worker deployment",
    "deploy": "what `sana deploy` writes, and the examples, on a Prefect server with a worker",
    "vae_compile": "the VAE's encoder compiled by inductor",
    "ranks": "training on two machines of which one is killed, hangs or is pre-empted; torchrun's restart",
    "cut_off": "training on two machines with a network each, of which one has its cable pulled",
    "compile": "training with blocks compiled by inductor: its numbers, its resume, its cache",
    "prefect_retry": "a retry by Prefect runs only what failed, a cancel ends the worker, a run outlives its server",
    "sharded": "each optimizer on two ranks, whole and sharded: its steps, and steps that are skipped",
    "numbers": "what saves memory changes no byte, a kill in an upload, the VAE's graphs, the loop beside a bare one",
    "memory": "counted memory against measured peaks; a plan after a calibration",
    "slurm": "training on two nodes of a Slurm cluster, pre-empted, then one node lost: the same losses",
    "slurm_recipe": "what the recipe for Slurm does after mistakes, a cancel, and nodes that are gone",
    "activations": "what compiled blocks keep, on one rank and on two, whole and sharded",
    "compile_ranks": "compiled and sharded by inductor, and a cold cache against a warm one",
    "base_check": "mistakes that the base check catches on a model that knows eight clips by heart",
    "adapters": "adapters in compiled blocks, one graph a shape; DoRA, an 8-bit base and frozen parts on two ranks",
    "learning": "each way of training knows four clips by heart and samples them again",
    "validation": "videos while training: sharded ranks that fail, all that saves memory",
    "converted": "each feature that the quickstart offers, converted and trained for a few steps",
    "exports": "each way of training is exported and loaded by stock loaders; CREPA and adapters with other settings; "
    "what is evaluated on request",
    "wheel": "the wheel in an empty environment, without the constraints, runs the demo outside of the clone",
    "notebook": "examples/quickstart.ipynb from its top to its bottom",
    "seek": "late windows of every kind of video",
}


def group_of(commit: str) -> str:
    """Return the group that CI runs for a commit, by its full hash."""
    return sorted(GROUPS)[int(commit, 16) % len(GROUPS)]


def _head() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Run one group, or list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the groups and run nothing")
    parser.add_argument("--group", choices=GROUPS, help="run this one instead of HEAD's")
    options = parser.parse_args()
    group = options.group or group_of(_head())
    if options.list:
        print("\n".join(f"{'*' if name == group else ' '} {name}: {what}" for name, what in GROUPS.items()))
        return
    print(f"slow tests, group {group}: {GROUPS[group]}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", f'slow(group="{group}")', "--durations=5"]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
