"""The trainer's loop and a bare one in turns on the same model and samples, so that machine noise leaves their ratio.

The trainer's loop trains from a store of made-up samples, all digests checked; before each of its log windows the bare
loop takes as many steps on the same samples, which were read before. The bare loop only computes: forward, backward,
clipping, optimizer. Seconds of the trainer's steps are those that it reports: norms by group, rates and the EMA are in.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from sana import metrics as m
from sana.config.load import check
from sana.config.pipeline import Config
from sana.config.training.train import TrainConfig
from sana.data.loading.loader import Reader, Samples
from sana.data.shards.shard_cache import ShardFiles
from sana.progress import Progress
from sana.store import Store
from sana.training.batch import MicroBatch
from sana.training.checkpoints.checkpoint_manager import CheckpointManager
from sana.training.compute.blocks import prepare_blocks
from sana.training.loop import Trainer
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from sana.training.state import TrainState
from sana.training.trainables.full_transformer import FullTransformer


class PairedTimes(NamedTuple):
    """Seconds a step, and the trainer's loop over the bare one: medians over log windows without the first."""

    loop_s: float
    bare_s: float
    ratio: float
    cpu_ratio: float  # of CPU seconds of the thread that trains: what else the machine does counts less


class BareLoop:
    """Steps as a script of twenty lines takes them; nothing is read, drawn, counted, averaged over steps or saved."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, device: torch.device
    ) -> None:
        # without what accelerate wrapped it in
        self._forward: Callable[..., tuple[torch.Tensor]] = getattr(model, "_original_forward", model.forward)
        self._parameters, self._optimizer = list(model.parameters()), optimizer
        self._config, self._device = config, device

    def take(self, batches: Iterable[MicroBatch]) -> None:
        """Take a step on each micro batch, which is the global batch."""
        for batch in batches:
            self.step(batch)

    def step(self, batch: MicroBatch) -> None:
        """Take a step on one."""
        bf16 = self._config.mixed_precision == "bf16"
        latents, noise = batch.latents.to(self._device).float(), batch.noise.to(self._device)
        sigma, captions = batch.sigma.to(self._device), batch.captions.to(self._device).float()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            share = sigma.view(-1, 1, 1, 1, 1)
            velocity = self._forward(
                (1 - share) * latents + share * noise,
                encoder_hidden_states=captions,
                timestep=1000 * sigma,
                encoder_attention_mask=batch.mask.to(self._device),
                return_dict=False,
            )[0]
            loss = (velocity.float() - (noise - latents)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def optimizer_of(state: TrainState) -> torch.optim.Optimizer:
    """Return the torch optimizer of a trainer's AdamW: a bare loop with one of its own needs moments of its own."""
    found = state.optimizer._optimizer
    assert isinstance(found, torch.optim.AdamW)
    return found


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of some work, the device's included."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PairedTrainer(Trainer):
    """A trainer whose log windows take turns with the bare loop; seconds a step of both, by window."""

    def __init__(self, *arguments: Any, own_optimizer: bool, **settings: Any) -> None:
        super().__init__(*arguments, report=self._note, **settings)
        self.loop_s: list[float] = []
        self.bare_s: list[float] = []
        self.cpu_ratios: list[float] = []  # of CPU seconds of this thread
        self._loop_began, self._bare_cpu_s = 0.0, 0.0
        model = self.trainable.model
        own = torch.optim.AdamW(model.parameters(), lr=1e-9, weight_decay=0.0) if own_optimizer else None
        self.bare = BareLoop(model, own or optimizer_of(self.state), self.config, self.parallel.device)

    def _train_step(self, batches: Iterator[MicroBatch]) -> None:
        every = self.resources.log_every
        if self.state.step % every == 0:
            self.end_window()
            slots = self.partition.slots(self.cursor, self.state.step, self.state.step + every)
            read = [self.prepare(slot) for slot in islice(slots, every)]
            cpu_began = time.thread_time()
            self.bare_s.append(timed(lambda: self.bare.take(read), self.parallel.device) / every)
            self._loop_began = time.thread_time()
            self._bare_cpu_s = self._loop_began - cpu_began
        super()._train_step(batches)

    def end_window(self) -> None:
        if self._bare_cpu_s:
            self.cpu_ratios.append((time.thread_time() - self._loop_began) / self._bare_cpu_s)

    def _note(self, progress: Progress) -> None:
        self.loop_s += [row[m.STEP_S] for row in progress.metrics[-1:] if m.STEP_S in row]


class _NoCheckpoints(CheckpointManager):
    """Saves nothing: `benchmarks.checkpoint` measures that."""

    def save(self, *_: Any, **__: Any) -> None:
        pass


def config_of(store: Store, train: TrainConfig, work_dir: Path) -> Config:
    """Return the config of a run on the store; the model is given to `measure` itself."""
    return check(
        {
            "root": store.root,
            "work_dir": str(work_dir),
            "model": {"path": "made_up"},
            "download": {"datasets": [{"id": "made_up", "source": "none"}]},
            "train": train.model_dump(exclude_unset=True),
            "sample": {"prompts": {"a": "a"}},
        },
        where="benchmarks.paired_loop",
    )


def measure(
    transformer: Any,
    train: TrainConfig,
    store: Store,
    samples: Samples,
    *,
    folder: Path,
    cache: Path | None = None,
    own_optimizer: bool = False,
) -> PairedTimes:
    """Train the transformer on the samples, the two loops in turns.

    `cache`: compiled code is kept below it, not in the `folder` of this run. `own_optimizer`: the bare loop has an
    AdamW of its own, and moments, instead of the trainer's.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    config = config_of(store, train, folder)
    parallel = Parallel.open(config.train)
    buckets = list(samples.buckets)
    compute = prepare_blocks(transformer, config.train, parallel, buckets=buckets, work_dir=cache or folder)
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
        own_optimizer=own_optimizer,
    )
    trainer.run()
    trainer.end_window()
    loop_s, bare_s = trainer.loop_s[1:], trainer.bare_s[1:]
    ratios = (one / other for one, other in zip(loop_s, bare_s, strict=True))
    return PairedTimes(median(loop_s), median(bare_s), median(ratios), median(trainer.cpu_ratios[1:]))
