"""What a table must say to be compared with another one: machine, versions, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.gpu.sizes import Sizes

_ROOT = Path(__file__).parents[2]


def heading(sizes: Sizes) -> str:
    """Return the lines above the tables."""
    if sizes.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        where = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {os.cpu_count()} CPU cores"
    else:
        where = f"CPU ({platform.machine()}), {os.cpu_count()} cores, {torch.get_num_threads()} of them used"
    used = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda or 'none'}", f"diffusers {version('diffusers')}"]
    return (
        f"**{where}**; {', '.join(used)}; commit {commit()}; {datetime.now(UTC):%Y-%m-%d}.\n\n"
        f"{sizes.said[0].upper()}{sizes.said[1:]}."
    )


def commit() -> str:
    """Return the commit that is checked out, and whether files differ from it; `unknown` without git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + (" with changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
