"""How long does an evaluation take a noise level, against the bare forward; by how many levels one forward takes?

    python -m benchmarks.evaluate [MODEL] [BUCKET]

MODEL is a folder in diffusers layout, by default the demo's tiny model; without a folder of that name, `published`
stands for random weights of the published sizes, for a GPU. Rows take turns in one run; the best of all turns counts.
The bare forward has its inputs on the device; evaluation reads, draws the noise, moves and computes the loss as well.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.made_up_store import Case, build
from sana.bucket import Bucket
from sana.config.evaluate import EvaluateConfig
from sana.config.training.train import TrainConfig
from sana.data.loading.loader import Reader
from sana.data.shards.shard_cache import ShardFiles
from sana.model.random_weights import random_transformer
from sana.model.transformer import load_transformer, predict
from sana.training import evaluation
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from tests.published import TRANSFORMER

NUM_SAMPLES, NUM_LEVELS, TURNS = 4, 8, 3
TINY, TINY_BUCKET, BUCKET = ".sana/tiny", "17x96x160", "81x480x832"
BARE = "bare forward, one level"


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of some work, the device's included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(
    model: nn.Module,
    parallel: Parallel,
    bucket: str,
    *,
    at_once: Sequence[int] = (1, 2, 4, 8),
    num_samples: int = NUM_SAMPLES,
    turns: int = TURNS,
) -> dict[str, float]:
    """Return seconds a noise level of the bare forward, and of evaluations of so many levels at once, by name.

    The number of levels that evaluation chooses by itself is always among them, and marked.
    """
    channels = int(model.config.caption_channels)  # type: ignore[arg-type,union-attr]
    device = parallel.device
    objective = build_objective(TrainConfig(max_steps=1, global_batch_size=1), flow_shift=3.0)
    config = EvaluateConfig(num_sigmas=NUM_LEVELS, max_samples=num_samples)
    shape = Bucket.parse(bucket).latent_shape
    one = torch.randn(1, *shape, device=device)
    captions = torch.randn(1, 128, channels, device=device)
    mask, timestep = torch.ones(1, 128, dtype=torch.int64, device=device), torch.tensor([500.0], device=device)

    @torch.no_grad()
    def bare() -> None:
        model.eval()
        with parallel.autocast():
            for _ in range(NUM_LEVELS):
                predict(model, one, timestep, captions, mask)

    with tempfile.TemporaryDirectory() as folder:
        store, samples = build(folder, Case(bucket, num_samples, caption_channels=channels))
        reader = Reader(ShardFiles(store), samples)
        tokens = shape[1] * shape[2] * shape[3] // 4
        default = evaluation.TOKENS_PER_FORWARD
        chosen = evaluation.levels_per_forward(NUM_LEVELS, shape)
        best: dict[str, float] = {}

        def evaluate() -> None:
            evaluation.evaluate_model(
                parallel, model, objective, reader, config, text_padding="batch", on_round=lambda *_: True
            )

        for turn in range(turns + 1):  # the first warms up
            rows = {BARE: timed(bare, device) / NUM_LEVELS}
            for levels in sorted({*at_once, chosen}):
                evaluation.TOKENS_PER_FORWARD = levels * tokens
                name = f"evaluation, {levels} at once{' (chosen)' if levels == chosen else ''}"
                rows[name] = timed(evaluate, device) / (num_samples * NUM_LEVELS)
            evaluation.TOKENS_PER_FORWARD = default
            best = {key: min(value, best.get(key, value)) if turn else 1e9 for key, value in rows.items()}
    return best


def main() -> None:
    name, bucket = (*sys.argv[1:], *(TINY, TINY_BUCKET)[len(sys.argv) - 1 :])[:2]
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    parallel = Parallel.open(TrainConfig(max_steps=1, global_batch_size=1, mixed_precision=precision))
    model: nn.Module
    if Path(name).is_dir():
        model = load_transformer(name).to(parallel.device)
    else:
        model = random_transformer(TRANSFORMER, device=parallel.device)
    best = measure(model, parallel, bucket)
    print(f"| {bucket}, {parallel.device.type} | ms a level | against bare |\n|---|---|---|")
    for key, seconds in best.items():
        print(f"| {key} | {1000 * seconds:.1f} | {seconds / best[BARE]:.2f} |")


if __name__ == "__main__":
    main()
