"""Run the pipeline's stages in this process, without Prefect, and say which of them ran."""

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from sana.artifact import Artifact
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.context import Context
from sana.pipeline.graph import Stage, stage, until
from sana.pipeline.observers import CACHED
from sana.pipeline.run import Run
from sana.pipeline.run import run_stages as run_all
from sana.runtime.job import read_job
from sana.runtime.specs import Spec
from sana.store import open_store

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "configs/demo/clips"
# overrides: the demo's own buckets at a third of their height and width, so the same clips in buckets alike, texts
# padded to 64 tokens in place of 300, and fewer noise levels: all encoded and evaluated in a third of the time
SMALLER = (
    "bucket.buckets=[17x32x64,17x32x32,17x64x32,9x32x64,9x32x32,9x64x32]",
    "encode_captions.padding=short",
    "evaluate.num_sigmas=3",
)


def as_shipped() -> tuple[str, ...]:
    """Overrides: the demo's values as they are shipped, where `Place.config` takes those of SMALLER."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    return (
        f"bucket.buckets=[{','.join(demo['bucket']['buckets'])}]",
        "encode_captions.padding=pipeline",
        f"evaluate.num_sigmas={demo['evaluate']['num_sigmas']}",
    )


@dataclass(frozen=True)
class Place:
    """A copy of the demo's clips, a root and a work_dir of its own."""

    folder: Path
    model: Path
    root: str

    @property
    def clips(self) -> Path:
        return self.folder / "clips"

    def config(self, *overrides: str) -> Config:
        """The demo's config, cut to small buckets and a handful of training steps, with overrides."""
        return load_config(
            ROOT / "configs/demo.yaml",
            [
                f"root={self.root}",
                f"work_dir={self.folder / 'work'}",
                f"model.path={self.model}",
                f"download.datasets.0.source={self.clips}",
                *SMALLER,
                "train.max_steps=6",
                "train.resources.checkpoint_every=2",
                "train.resources.eval_every=0",
                "sample.num_inference_steps=2",
                "sample.bucket=5x64x96",
                *overrides,
            ],
        )

    def context(self, *overrides: str) -> Context:
        config = self.config(*overrides)
        return Context(config, open_store(config.root), Path(config.work_dir))


def new_place(folder: Path, model: Path, *, root: str | None = None) -> Place:
    """Copy the demo's clips to `folder`; the root is in it unless given."""
    shutil.copytree(CLIPS, folder / "clips")
    (folder / "work").mkdir()
    return Place(folder, model, root or str(folder / "root"))


@dataclass(frozen=True)
class Outcome:
    """The artifacts of a run, and the names of the stages that were not found in storage."""

    artifacts: dict[str, Artifact]
    ran: list[str]

    def __getitem__(self, name: str) -> Artifact:
        return self.artifacts[name]

    @property
    def tables(self) -> dict[str, Artifact]:
        """The artifacts by the tables they give, as stages are given them."""
        return {table: made for name, made in self.artifacts.items() for table in stage(name).GIVES}


def run_stages(context: Context, *, last: str | None = None) -> Outcome:
    """Run every stage up to `last`; any number of clips may be rejected."""
    download = context.config.download
    unlimited = [dataset.model_copy(update={"max_rejected_fraction": 1.0}) for dataset in download.datasets]
    download = download.model_copy(update={"datasets": tuple(unlimited)})
    with Run(replace(context, config=context.config.model_copy(update={"download": download}))) as run:
        done = run_all(run, until(context.config, last))
    return Outcome({one.stage: one.artifact for one in done}, [one.stage for one in done if one.state != CACHED])


def spec_of(work: Callable[..., None]) -> type[Spec]:
    """The kind of job that a worker's body takes."""
    (kind,) = get_args(get_type_hints(work)["job"])
    return kind


@contextmanager
def inline_workers() -> Iterator[None]:
    """Run workers' bodies in this process: a child would spend ten seconds importing torch and diffusers.

    For tests of what runs and what comes out. The real processes are in test_launch, test_s3_pipeline and tests/faults.
    """
    encoders = ("encode_captions", "encode_features", "encode_latents")
    bodies = {**dict.fromkeys(encoders, "encode"), "train": "train"}

    def body(module: str, job_path: Path, **_: object) -> None:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state()  # a process has one precision, and the tests before may have had another
        name = module.rpartition(".")[2]
        work = getattr(importlib.import_module(module), bodies.get(name, name))
        work(read_job(job_path, spec_of(work)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sana.runtime.worker.launch", body)
        yield


def run_alone(module: Stage, context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Run one stage, whether it is in storage or not."""
    return module.run(context, inputs, module.recipe(context, inputs))
