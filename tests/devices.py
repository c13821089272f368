"""Cases of training that run on a GPU where there is one, and, by the same function, on a CPU among the slow tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gpu.sizes import BY_NAME
from sana import metrics as m
from sana.training.checkpoints.checkpoint_io import weights_digest
from sana.training.compute.compiled_blocks import CompiledBlocks
from sana.training.synthetic import SyntheticTraining

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


def take_compiled_steps(sizes_name: str, cache: Path, out: Path) -> None:
    """Take four steps on two layers, in a process of its own; writes losses, norms and the digest of weights to `out`.

    `cache` is where compiled code is kept, and found again by the next process.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    sizes = BY_NAME[sizes_name]
    config = sizes.train_config({"compile": "always", "activation_memory": 0.4})
    training = SyntheticTraining(config, sizes.transformer, work_dir=cache, bucket=sizes.bucket, num_layers=2)
    batches = training.batches(sizes.bucket, sizes.caption_tokens)
    lines = []
    for _ in range(4):
        scalars = training.take(batches).scalars
        lines.append(" ".join(scalars[name].value.item().hex() for name in (m.TRAIN_LOSS, m.GRAD_NORM)))
    weights = {name: parameter.detach().cpu() for name, parameter in training.trainable.parameters.items()}
    out.write_text("\n".join([*lines, weights_digest(weights)]))
