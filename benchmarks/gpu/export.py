"""Seconds of an export: the transformer written and hashed, all else of the base linked, and the digests of weights.

The base's text encoder and VAE are stored beside the first steps of a training, so that is not in the export's time; it
is a row of its own. On a GPU they are of the published sizes.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.apart import Measure, Numbers, apart
from benchmarks.gpu.sizes import Sizes
from benchmarks.models import build_model
from sana.model.random_weights import random_transformer
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint_io import weights_digest
from sana.training.exports.model_export import export_model, store_base
from sana.training.trainables.full_transformer import FullTransformer

EXPORT = "export"


def measure(sizes: Sizes, setting: str = EXPORT) -> Numbers:
    """Export a model that is on the device, and return the seconds and the bytes of each part."""
    device = torch.device(sizes.device)
    trainable = FullTransformer(random_transformer(sizes.transformer, device=device))
    weights = {name: parameter.detach() for name, parameter in trainable.parameters.items()}
    with tempfile.TemporaryDirectory() as name:
        base, work_dir, store = Path(name) / "base", Path(name) / "work", LocalStore(str(Path(name) / "root"))
        work_dir.mkdir()
        build_model(base, device=device)
        started = time.perf_counter()
        stored = store_base(store, str(base), without="transformer", work_dir=work_dir)
        base_s = time.perf_counter() - started
        started = time.perf_counter()
        files = export_model(store, "train/t/model", trainable, weights, base=str(base), work_dir=work_dir)
        export_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(2):  # live and EMA
        weights_digest(weights)
    return {
        "base_s": base_s,
        "export_s": export_s,
        "digests_s": time.perf_counter() - started,
        "base_bytes": sum(file.num_bytes for file in stored.values()),
        "model_bytes": sum(file.num_bytes for file in files.values()),
    }


def table(measure: Measure) -> Iterator[str]:
    """Yield the lines of the table."""
    found = measure(EXPORT)
    assert found is not None  # the transformer alone fits
    own, base = found["model_bytes"] - found["base_bytes"], found["base_bytes"]
    yield "| part of an export | GB | s |"
    yield "|---|---|---|"
    yield f"| text encoder, VAE, tokenizer: stored beside the first steps | {base / 1e9:.3g} | {found['base_s']:.3g} |"
    yield f"| transformer written, all else linked | {own / 1e9:.3g} | {found['export_s']:.3g} |"
    yield f"| digests of live and EMA weights | {2 * own / 1e9:.3g} | {found['digests_s']:.3g} |"
    yield f"| **the end of a training** | | **{found['export_s'] + found['digests_s']:.3g}** |"


def main(sizes: Sizes) -> None:
    for line in table(apart(__name__, sizes)):
        print(line, flush=True)
