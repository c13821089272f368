"""How long does it take to plan an epoch of 10 million samples, and how much memory?

    python -m benchmarks.epoch

24 buckets. CPU seconds; memory is numpy's peak beside the bucket codes and draws themselves. The last column is the
ratio to one permutation of as many numbers, the least that a shuffle costs.
"""

import time
import tracemalloc
from collections.abc import Callable
from itertools import count

import numpy as np

from sana.data.loading.epoch import Cursor, epoch_plan

NUM_ROWS, NUM_BUCKETS = 10_000_000, 24


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def peak_mb(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, NUM_BUCKETS, NUM_ROWS).astype(np.uint16)
    mixed = np.where(random.random(NUM_ROWS) < 0.3, 2.5, 0.7)
    cursor = Cursor(codes, seed=0, batch_size=64)

    def plan(batch_size: int, draws_per_epoch: np.ndarray | float = 1.0) -> Callable[[], object]:
        return lambda: epoch_plan(codes, draws_per_epoch, seed=0, epoch=0, batch_size=batch_size)

    epochs = count(1)

    def next_epoch() -> None:
        _, position = cursor.at(0)
        cursor.batch(next(epochs) * cursor.num_batches + position)

    works = {
        "permutation alone (numpy)": lambda: np.random.Generator(np.random.Philox(0)).permutation(NUM_ROWS),
        "plan, batches of 64": plan(64),
        "plan, batches of 1": plan(1),
        "plan, batches of 64, draws_per_epoch 2.5 and 0.7": plan(64, mixed),
        "the next epoch of a run, batches of 64": next_epoch,
    }
    measured = {name: (seconds(work), peak_mb(work)) for name, work in works.items()}
    floor = next(iter(measured.values()))[0]
    print(f"| {NUM_ROWS:,} rows | CPU seconds | peak MB | ratio |\n|---|---|---|---|")
    for name, (cpu_s, megabytes) in measured.items():
        print(f"| {name} | {cpu_s:.2f} | {megabytes:.0f} | {cpu_s / floor:.1f} |")


if __name__ == "__main__":
    main()
