"""The first import of a worker: importing torch, diffusers and transformers makes a million objects that stay.

Collecting garbage among them again and again costs 1.7 s of 10, so a worker process does without until `run_worker`.
A worker's module imported by another process changes nothing there.
"""

import gc
import sys

_main = sys.modules["__main__"].__spec__
if _main is not None and _main.name.startswith("sana.work."):
    gc.disable()


def imports_are_done() -> None:
    """Collect garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()
