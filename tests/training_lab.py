"""A test bench for the training loop: trajectories on a synthetic store, in this process or in others."""

from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sana.config.pipeline import Config
from sana.metrics import GRAD_NORM, OF_THE_MACHINE, parse_rows
from sana.runtime.job import Job, read_job, write_job
from sana.runtime.launcher import result_path
from sana.runtime.results import Passport, TrainResult
from sana.runtime.specs import PassportSpec, TrainSpec
from sana.training.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_metrics
from sana.workers import train as trainer
from sana.workers.passport import passport
from tests.forked import start_ranks
from tests.training_store import Encoded, train_config, train_job

OF_SPEC = ("keep_steps", "draws_per_epoch", "initial", "masks", "features")  # settings that are no config's
NOT_COMPARED = (*OF_THE_MACHINE, f"{GRAD_NORM}_")


class Lab:
    """Runs trajectories on one store; each has a work_dir of its own, as if on another machine every time."""

    def __init__(self, encoded: Encoded, folder: Path, model: Path) -> None:
        self.encoded, self.folder, self.model, self.store = encoded, folder, model, encoded.store
        self.runs = 0
        self.last_job = Path()

    def job(self, trajectory: str, **settings: Any) -> Job[TrainSpec]:
        self.runs += 1
        spec = {name: settings.pop(name) for name in OF_SPEC if name in settings}
        config: Config = train_config(self.encoded, self.folder / str(self.runs), self.model, **settings)
        job = train_job(self.encoded, config, self.model, trajectory=self.key(trajectory), **spec)
        self.last_job = job.path
        return job

    def key(self, trajectory: str) -> str:
        return f"{self.folder.name}-{trajectory}"

    def train(self, trajectory: str, **settings: Any) -> Checkpoint:
        job = self.job(trajectory, **settings)
        trainer.train(job)
        return self.at(trajectory, job.config.train.max_steps)

    def at(self, trajectory: str, step: int) -> Checkpoint:
        return read_checkpoint(self.store, self.key(trajectory), step)

    def rows(self, checkpoint: Checkpoint) -> list[dict[str, float]]:
        """All metrics but those of the machine, and but norms by group, which are taken at the end of a log window."""
        rows = parse_rows(read_metrics(self.store, checkpoint))
        return [{name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)} for row in rows]

    def losses(self, checkpoint: Checkpoint) -> list[float]:
        return [row["train/loss"] for row in self.rows(checkpoint) if "train/loss" in row]

    def path(self, key: str) -> Path:
        path = self.store.local_path(key)
        assert path is not None
        return path

    def assert_same(self, a: Checkpoint, b: Checkpoint) -> None:
        for name, info in a.files.items():
            assert info.digest == b.files[name].digest, name
            assert self.store.read(info.key) == self.store.read(b.files[name].key)
        assert self.rows(a) == self.rows(b)
        assert a.cursor == b.cursor

    def passport(self) -> Passport:
        """Check the exports of the run that was last, in this process as the worker does in its own."""
        job = read_job(self.last_job, TrainSpec)
        result = TrainResult.load(result_path(job.path), repair_hint="")
        out = self.last_job.with_suffix(".passport")
        out.mkdir()
        spec = PassportSpec(
            model=job.spec.model,
            folder=result.model,
            files=result.files,
            reference=result.reference,
            num_ranks=result.num_ranks,
            not_exported=result.not_exported,
            out_dir=str(out),
        )
        passport(read_job(write_job(job.config, spec), PassportSpec))
        return Passport.load(out / Passport.FILE, repair_hint="")

    def start(self, job: Job[Any], body: Callable[..., None] = trainer.train, *, ranks: int = 1) -> list[BaseProcess]:
        """Start a worker's body in processes of its own, one a rank."""
        return start_ranks(body, job, ranks)

    def run(self, job: Job[Any], body: Callable[..., None] = trainer.train, *, ranks: int = 1) -> None:
        """Run a worker's body on so many ranks to its end."""
        processes = self.start(job, body, ranks=ranks)
        try:
            for process in processes:
                process.join(180)
            assert [process.exitcode for process in processes] == [0] * ranks
        finally:
            for process in processes:
                process.kill()
