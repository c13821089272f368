"""A training on two "machines": two ranks that share nothing but a root, and what became of them."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess

import yaml

from flows.cli.main import main
from sana.facts import TrainFacts
from sana.metrics import parse_rows
from sana.pipeline.plan import inputs_of
from sana.stages import train as stage
from sana.training.checkpoints.checkpoint import newest_checkpoint
from tests.forked import start
from tests.pipeline_runs import Place, inline_workers

STEPS = 60
SETTINGS = (f"train.max_steps={STEPS}", "train.resources.checkpoint_every=3", "train.resources.micro_batch_size=1")


def worker(environ: dict[str, str], config: str, work_dir: str, sharding: str) -> None:
    """Be one rank: what `sana train-worker` does."""
    os.environ.update(environ)
    main(["train-worker", config, "-s", f"work_dir={work_dir}", "-s", f"train.resources.sharding={sharding}"])


class Machines:
    """Starts both ranks of a training, each with a work_dir of its own.

    `start` starts a process on a machine, by number; `environ` is added to that of the ranks.
    """

    def __init__(
        self,
        place: Place,
        *,
        start: Callable[..., BaseProcess] = lambda _, target, *arguments: start(target, *arguments),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.place, self.context = place, place.context(*SETTINGS)
        self.start, self.environ = start, dict(environ or {})
        self.recipe = stage.recipe(self.context, inputs_of(self.context, "train"))
        self.config = place.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(self.context.config.model_dump(mode="json")), encoding="utf-8")

    @contextmanager
    def training(self, sharding: str) -> Iterator[list[BaseProcess]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "1"}
        common |= self.environ
        ranks = []
        for rank in (0, 1):
            work_dir = self.place.folder / f"machine{rank}"
            work_dir.mkdir(exist_ok=True)
            environ = {**common, "RANK": str(rank), "LOCAL_RANK": "0"}
            ranks.append(self.start(rank, worker, environ, str(self.config), str(work_dir), sharding))
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()

    def step(self) -> int:
        found = newest_checkpoint(self.context.store, stage.trajectory_of(self.recipe), at_most=STEPS)
        return found.step if found else 0

    def wait_for_more(self, ranks: list[BaseProcess], before: int) -> None:
        deadline = time.monotonic() + 90
        while self.step() <= before:
            assert all(rank.exitcode is None for rank in ranks), [rank.exitcode for rank in ranks]
            assert time.monotonic() < deadline
            time.sleep(0.2)


def ended_within(rank: BaseProcess, seconds: float) -> int | None:
    began = time.monotonic()
    rank.join(seconds)
    print(f"ended with {rank.exitcode} after {time.monotonic() - began:.1f} s")
    return rank.exitcode


def losses(machines: Machines, keys: tuple[str, ...]) -> list[float]:
    rows = parse_rows(b"".join(machines.context.store.read(key) for key in keys))
    return [row["train/loss"] for row in rows if "train/loss" in row]


def straight_losses(machines: Machines) -> list[float]:
    """The losses of the same training in one process that nothing disturbs."""
    inputs = inputs_of(machines.context, "train")
    with inline_workers():
        straight = stage.run(replace(machines.context, salt="straight"), inputs, machines.recipe)
    return losses(machines, TrainFacts.of(straight).metrics)
