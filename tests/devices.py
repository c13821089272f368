"""Cases of training that run on a GPU where there is one, and, by the same function, on a CPU among the slow tests."""

from collections.abc import Iterator
from contextlib import contextmanager

from sana.training.compute.compiled_blocks import CompiledBlocks

CPU_BACKEND = "aot_eager_decomp_partition"  # traces and partitions as inductor does, and compiles no C++


@contextmanager
def fresh_accelerator() -> Iterator[None]:
    """Let what is within choose device and precision: accelerate holds those of a process's first run."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def compiled_by(backend: str) -> Iterator[None]:
    """Compile blocks by another backend of torch.compile than inductor."""
    defaults = CompiledBlocks.__init__.__kwdefaults__
    assert defaults is not None
    before = defaults["backend"]
    defaults["backend"] = backend
    try:
        yield
    finally:
        defaults["backend"] = before
