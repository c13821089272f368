"""What does the trainer's loop cost a step, against a bare one, on the demo's tiny model?

    python -m benchmarks.train [MODEL]

The loop trains as `sana run` does with configs/demo.yaml, in turns with the bare loop of benchmarks.paired_loop, which
has an AdamW of its own. Ratios are medians over log windows.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.made_up_store import Case, build
from benchmarks.paired_loop import PairedTimes
from benchmarks.paired_loop import measure as measure_paired
from sana.config.training.train import TrainConfig
from sana.model.transformer import load_transformer

MODEL, BUCKETS, BATCH, CAPTION_TOKENS = ".sana/tiny", ("9x96x160", "17x96x160"), 4, 32
LOG_EVERY, WINDOWS = 5, 21  # the first window warms up


def train_config() -> TrainConfig:
    """Return the demo's settings of training."""
    resources = {
        "micro_batch_size": BATCH, "activation_memory": 1.0, "device": "cpu", "checkpoint_every": 10**9,
        "eval_every": 0, "log_every": LOG_EVERY,
    }  # fmt: skip
    settings = {
        "max_steps": WINDOWS * LOG_EVERY, "global_batch_size": BATCH, "learning_rate": 1e-9, "max_grad_norm": 1.0,
        "mixed_precision": "fp32", "resources": resources,
    }  # fmt: skip
    return TrainConfig.model_validate(settings)


def measure(model: str, bucket: str, folder: Path) -> PairedTimes:
    """Train, the two in turns."""
    transformer = load_transformer(model)
    channels = int(transformer.config.caption_channels)
    store, samples = build(str(folder / "root"), Case(bucket, 12, CAPTION_TOKENS, caption_channels=channels))
    return measure_paired(transformer, train_config(), store, samples, folder=folder, own_optimizer=True)


def main() -> None:
    model = next(iter(sys.argv[1:]), MODEL)
    print(f"| batch of {BATCH}, CPU | bare loop, ms a step | trainer's loop | ratio | ratio of CPU time |")
    print("|---|---|---|---|---|")
    for bucket in BUCKETS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(model, bucket, Path(folder))
        times = f"{1e3 * found.bare_s:.1f} | {1e3 * found.loop_s:.1f}"
        print(f"| {bucket} | {times} | {found.ratio:.2f} | {found.cpu_ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
