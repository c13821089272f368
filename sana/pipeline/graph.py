"""The DAG: which stages there are, in which order, and what each reads. No Prefect here: `sana plan` uses it."""

import importlib
from collections.abc import Mapping
from typing import Protocol

from sana.artifact import Artifact, Recipe
from sana.context import Context

STAGES = ("download", "probe", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample")


class Stage(Protocol):
    """What a module in sana/stages holds."""

    NAME: str
    VERSION: int
    INPUTS: tuple[str, ...]

    @staticmethod
    def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe: ...

    @staticmethod
    def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact: ...

    @staticmethod
    def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]: ...


def stage(name: str) -> Stage:
    """Return the stage module of this name."""
    module: Stage = importlib.import_module(f"sana.stages.{name}")  # type: ignore[assignment]
    return module


def until(last: str | None) -> tuple[str, ...]:
    """Return the stages up to and including `last`, in order; all of them for None.

    Raises:
        ValueError: there is no such stage.
    """
    if last is None:
        return STAGES
    if last not in STAGES:
        raise ValueError(f"there is no stage {last!r}; stages are {', '.join(STAGES)}")
    return STAGES[: STAGES.index(last) + 1]
