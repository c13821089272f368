"""What does the trainer's loop cost a step, against a bare one, on the demo's tiny model?

    python -m benchmarks.train [MODEL]

The loop trains from a store of made-up samples, all digests checked, as `sana run` does with configs/demo.yaml; each of
its log windows takes turns with as many steps of the bare loop, on the same samples, which were read before. The bare
loop only computes: forward, backward, clipping, optimizer. Seconds of the loop's steps are those that it reports: norms
by group, rates and the EMA are in them. Ratios are medians over windows.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.loader import Case, build
from sana.config.load import check
from sana.config.pipeline import Config
from sana.config.training.train import TrainConfig
from sana.data.loading.loader import Reader
from sana.data.shards.shard_cache import ShardFiles
from sana.model.transformer import load_transformer
from sana.progress import Progress
from sana.store import Store
from sana.training import metrics as m
from sana.training.batch import MicroBatch
from sana.training.checkpoints.checkpoint_manager import CheckpointManager
from sana.training.compute.blocks import prepare_blocks
from sana.training.loop import Trainer
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from sana.training.trainable import FullTransformer

MODEL, BUCKETS, BATCH, CAPTION_TOKENS = ".sana/tiny", ("9x96x160", "17x96x160"), 4, 32
LOG_EVERY, WINDOWS = 5, 21  # the first window warms up


class Measured(NamedTuple):
    """Seconds a step, and the trainer's loop over the bare one: medians over windows."""

    loop_s: float
    bare_s: float
    ratio: float
    cpu_ratio: float  # of CPU seconds of the thread that trains: what else the machine does counts less


class BareLoop:
    """Steps as a script of twenty lines takes them, with AdamW of its own."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._model, self._max_norm = model, config.max_grad_norm
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, weight_decay=0.0)

    def step(self, batch: MicroBatch) -> None:
        latents, noise, sigma = batch.latents.float(), batch.noise, batch.sigma
        share = sigma.view(-1, 1, 1, 1, 1)
        velocity = self._model(
            (1 - share) * latents + share * noise,
            encoder_hidden_states=batch.captions.float(),
            timestep=1000 * sigma,
            encoder_attention_mask=batch.mask,
            return_dict=False,
        )[0]
        loss = (velocity - (noise - latents)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()


class PairedTrainer(Trainer):
    """A trainer whose log windows take turns with the bare loop; seconds a step of both, by window."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, report=self._note, **settings)
        self.loop_s: list[float] = []
        self.bare_s: list[float] = []
        self.cpu_ratios: list[float] = []  # of CPU seconds of this thread
        self._loop_began, self._bare_cpu_s = 0.0, 0.0
        self.bare = BareLoop(self.trainable.model, self.config)

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        if self.state.step % LOG_EVERY == 0:
            self._end_window()
            slots = self.partition.slots(self.cursor, self.state.step, self.state.step + LOG_EVERY)
            read = [self.prepare(slot) for slot in islice(slots, LOG_EVERY)]
            began, cpu_began = time.perf_counter(), time.thread_time()
            for batch in read:
                self.bare.step(batch)
            self.bare_s.append((time.perf_counter() - began) / LOG_EVERY)
            self._loop_began = time.thread_time()
            self._bare_cpu_s = self._loop_began - cpu_began
        super()._train_step(batches)

    def _end_window(self) -> None:
        if self._bare_cpu_s:
            self.cpu_ratios.append((time.thread_time() - self._loop_began) / self._bare_cpu_s)

    def _note(self, progress: Progress) -> None:
        self.loop_s += [row[m.STEP_S] for row in progress.metrics[-1:] if m.STEP_S in row]


def config_of(store: Store, model: str, folder: Path) -> Config:
    """Return the demo's settings of training."""
    resources = {
        "micro_batch_size": BATCH, "activation_memory": 1.0, "device": "cpu", "checkpoint_every": 10**9,
        "eval_every": 0, "log_every": LOG_EVERY,
    }  # fmt: skip
    train = {
        "max_steps": WINDOWS * LOG_EVERY, "global_batch_size": BATCH, "learning_rate": 1e-9, "max_grad_norm": 1.0,
        "mixed_precision": "fp32", "resources": resources,
    }  # fmt: skip
    return check(
        {
            "root": store.root,
            "work_dir": str(folder),
            "model": {"path": model},
            "download": {"datasets": [{"id": "made_up", "source": "none"}]},
            "train": train,
            "sample": {"prompts": {"a": "a"}},
        },
        where="benchmarks.train",
    )


class _NoCheckpoints(CheckpointManager):
    """Saves nothing: `benchmarks.checkpoint` measures that."""

    def save(self, *_: Any, **__: Any) -> None:
        pass


def measure(model: str, bucket: str, folder: Path) -> Measured:
    """Train, the two in turns."""
    transformer = load_transformer(model)
    channels = int(transformer.config.caption_channels)
    store, samples = build(str(folder / "root"), Case(bucket, 12, CAPTION_TOKENS, caption_channels=channels))
    config = config_of(store, model, folder)
    parallel = Parallel.open(config.train)
    compute = prepare_blocks(transformer, config.train, parallel, buckets=[bucket], work_dir=folder)
    reader = Reader(ShardFiles.configured(store, config.train.resources, work_dir=folder), samples)
    trainer = PairedTrainer(
        config,
        parallel,
        FullTransformer(transformer),
        build_objective(config.train, flow_shift=3.0),
        reader=reader,
        eval_reader=reader,
        checkpoints=_NoCheckpoints(
            store, "t", folder=folder, config=config.train, snapshot={}, keep_steps=(), check=lambda: None
        ),
        compute=compute,
    )
    trainer.run()
    trainer._end_window()
    loop_s, bare_s = trainer.loop_s[1:], trainer.bare_s[1:]
    ratios = (one / other for one, other in zip(loop_s, bare_s, strict=True))
    return Measured(median(loop_s), median(bare_s), median(ratios), median(trainer.cpu_ratios[1:]))


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
