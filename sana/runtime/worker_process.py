"""The first import of a worker: how its process is to treat memory.

Importing torch, diffusers and transformers makes a million objects that stay: collecting garbage among them again and
again costs 1.7 s of 10, so a worker does without until `run_worker`. A worker's module imported by another process
changes nothing there.
"""

import ctypes
import gc
import json
import logging
import sys
from pathlib import Path

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEPT_BYTES = 2**30
# they read captions that are embeddings already, or none
_WITHOUT_TEXT = tuple(f"sana.workers.{name}" for name in ("train", "evaluate", "commands.evaluate_weights", "passport"))


def hide_torchao() -> None:
    """Keep diffusers and transformers from importing torchao, which takes 3 s and prints warnings.

    `train.optimizer` adamw_8bit and `train.base_weights` int8 and fp8 use it, and import it then.
    """
    sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]


def unhide_torchao() -> None:
    """Let torchao be imported, for what uses it; it warns of kernels of its own that a machine lacks, which none do."""
    if sys.modules.get("torchao", sys) is None:
        del sys.modules["torchao"]
    logging.getLogger("torchao").setLevel(logging.ERROR)


def hide_text_models(job: str) -> None:
    """Keep diffusers from importing transformers, scipy and peft, 4 s, where no text is encoded and nothing sampled.

    `job` is the worker's job file. A model of the hub is downloaded by a pipeline of diffusers, which needs them, as
    does the one that validation samples by. Adapters are made by peft, which needs transformers and is found by
    diffusers wherever it is installed.
    """
    try:
        found = json.loads(Path(job).read_bytes())
        model, train = found["spec"]["model"]["path"], found["config"]["train"]
        method, samples = train["method"]["name"], train["validation"]["every"] > 0
    except (OSError, ValueError, KeyError, TypeError):  # which the worker tells of
        return
    # else it has looked for them already
    if method == "full" and not samples and Path(model).is_dir() and "diffusers" not in sys.modules:
        for name in ("transformers", "scipy", "peft"):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


_main = sys.modules["__main__"].__spec__
if _main is not None and _main.name.startswith("sana.workers."):
    gc.disable()
    hide_torchao()
    if _main.name in _WITHOUT_TEXT:
        hide_text_models(sys.argv[-1])


def keep_freed_memory() -> None:
    """Let malloc give freed memory of up to 1 GiB to the next tensor, not back to the system.

    The system clears each page that it hands out again: a fifth of the time of encoding on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc alone
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def imports_are_done() -> None:
    """Collect garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()
