"""The graph by tables: which stages there are, which of them a config uses, and who provides what each reads.

A stage names the tables it reads and gives; nobody names another stage. Each table is given by one stage, or by several
in turn (a filter reads `probed_clips` and gives `probed_clips`): a reader gets it from the last stage above it in
`STAGES` that its config uses. No Prefect here: `sana plan` uses it.

    table         first given by   file, content views
    clips         download         clips.parquet: videos
    captions      download         captions.parquet: captions
    mask_files    download         masks.parquet: masks, if a data set may have some
    probed_clips  probe            clips.parquet: clips
    windows       bucket           clips.parquet: windows, members
    masks         encode_masks     index.parquet: train, eval
    features      encode_features  index.parquet: train
    texts         encode_captions  index.parquet: train, eval, prompts
    latents       encode_latents   index.parquet: train, eval
    base_check    check_base       base_check.json: base_check
    weights       train            model/ and a checkpoint: weights
    losses        evaluate         losses.parquet: losses
    videos        sample           *.mp4: videos
    published     publish          upload.json: published
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Protocol

from sana.artifact import Artifact, Recipe
from sana.config.pipeline import Config
from sana.context import Context
from sana.errors import ConfigError

# Modules of sana.stages, in the order in which they run. A new stage is a module and a name here.
STAGES: tuple[str, ...] = (
    "download",
    "probe",
    "filter_captions",
    "bucket",
    "encode_masks",
    "encode_features",
    "encode_captions",
    "encode_latents",
    "check_base",
    "train",
    "evaluate",
    "sample",
    "publish",
)


class Stage(Protocol):
    """What a module in sana/stages holds. Its docstring's first sentence is what lists of stages say of it.

    `inputs` are the artifacts that provide the tables of READS, by table; `run` is given the recipe made of them. An
    optional stage also has `is_used(config) -> bool`; one that reads what an optional stage gives has `READS_IF_GIVEN`;
    one that starts no worker may have `TIMEOUT_S`, the seconds that it may take.
    """

    NAME: str
    VERSION: int
    READS: tuple[str, ...]
    GIVES: tuple[str, ...]

    @staticmethod
    def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe: ...

    @staticmethod
    def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact: ...

    @staticmethod
    def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]: ...


def stage(name: str) -> Stage:
    """Return the stage module of this name."""
    module: Stage = importlib.import_module(f"sana.stages.{name}")  # type: ignore[assignment]
    return module


def about(name: str) -> str:
    """Return what a stage does, in one sentence."""
    text = " ".join((inspect.getdoc(stage(name)) or name).split())
    return text.partition(". ")[0].removesuffix(".") + "."


def timeout_s(name: str) -> float | None:
    """Return the seconds that a stage without a worker may take; None of the others, whose workers are watched."""
    return getattr(stage(name), "TIMEOUT_S", None)


def reads(name: str) -> tuple[str, ...]:
    """Return the tables that a stage may read: those that it needs, then those that only optional stages give."""
    return (*stage(name).READS, *reads_if_given(name))


def reads_if_given(name: str) -> tuple[str, ...]:
    """Return the tables that a stage reads only where the config uses a stage that gives them."""
    optional: tuple[str, ...] = getattr(stage(name), "READS_IF_GIVEN", ())
    return optional


def is_used(name: str, config: Config) -> bool:
    """Whether a run of this config has this stage: always, unless the stage says otherwise."""
    asked = getattr(stage(name), "is_used", None)
    return asked is None or bool(asked(config))


def stages_of(config: Config) -> tuple[str, ...]:
    """Return the stages that a config uses, in the order in which they run."""
    return tuple(name for name in STAGES if is_used(name, config))


def until(config: Config, last: str | None) -> tuple[str, ...]:
    """Return the stages of a config up to and including `last`, in order; all of them for None.

    Raises:
        ConfigError: there is no such stage, or the config does not use it.
    """
    if last is not None and last not in STAGES:
        raise ConfigError(f"there is no stage {last!r}; stages are {', '.join(STAGES)}")
    names = stages_of(config)
    if last is None:
        return names
    if last not in names:
        raise ConfigError(f"this config does not use stage {last}: set its section, or name one of {', '.join(names)}")
    return names[: names.index(last) + 1]


def check_force(config: Config, force: Iterable[str], last: str | None) -> None:
    """Check the stages that are to run again, of a run up to `last`.

    Raises:
        ConfigError: one is no stage that the config uses, or comes after `last`, so that it would not run.
    """
    names = until(config, last)
    for name in force:
        if name in until(config, name) and name not in names:
            raise ConfigError(
                f"--force {name} would do nothing: {name} comes after {last}, where --until ends the run; leave "
                f"--until out, or set it to {name} or a stage after it"
            )


def providers(config: Config, name: str) -> dict[str, str]:
    """Return {table: the stage that provides it} of the tables that a stage of this config reads.

    Raises:
        ValueError: no stage above it that the config uses gives one of them.
    """
    given = {table: above for above in until(config, name)[:-1] for table in stage(above).GIVES}
    missing = [table for table in stage(name).READS if table not in given]
    if missing:
        raise ValueError(
            f"stage {name} reads {', '.join(missing)}, which no stage above it gives; move it down in "
            "sana/pipeline/graph.py, or turn on the stage that gives it"
        )
    return {table: given[table] for table in reads(name) if table in given}


def inputs_of(config: Config, name: str, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return {table: artifact} for a stage, of the artifacts of the stages above it by stage.

    Raises:
        KeyError: the artifact of a provider is not there.
    """
    return {table: artifacts[above] for table, above in providers(config, name).items()}
