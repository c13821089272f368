"""What the report of a training is about: its artifacts, its checkpoints, its rows, found in storage."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sana.artifact import Artifact, Recipe
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.metrics import parse_rows
from sana.report.training.numbers import Numbers
from sana.report.training.origins import DATA_STAGES, origins
from sana.report.training.verdict import Ending
from sana.runtime.results import BaseCheckReport, EvalReport
from sana.store import Store
from sana.training.checkpoints.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    checkpoint_steps,
    newest_checkpoint,
    read_checkpoint,
    training_folders,
)

R = TypeVar("R", EvalReport, BaseCheckReport)
_SEGMENT = re.compile(r"(\d+)-(\d+)-(.+)\.jsonl")  # <from>-<to>-<attempt>.jsonl
_MAX_CHECKPOINTS = 200  # whose indexes are read


@dataclass(frozen=True)
class Subject:
    """A training, finished or not. `artifacts`: of every stage of its config, or of those found behind it.

    `recipe`: of the train stage; None where the training is not finished and its config not known. `title`, `ending`,
    `max_steps` and `prompts`: where they are empty, what its newest run has on record counts.
    """

    lineage: Lineage
    title: str
    trajectory: str
    artifacts: Mapping[str, Artifact]
    recipe: Recipe | None = None
    ending: Ending = field(default_factory=Ending)
    max_steps: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.lineage.store

    @property
    def train(self) -> Artifact | None:
        return self.artifacts.get("train")

    @property
    def data(self) -> dict[str, Artifact]:
        """The artifacts of the data stages, in their order."""
        return {name: one for name, one in self.artifacts.items() if name in DATA_STAGES}


def finished_subject(lineage: Lineage, train: Artifact, *, title: str = "", ending: Ending | None = None) -> Subject:
    """Return a finished training with its newest evaluation and samples, and what it was made of."""
    evaluated = lineage.with_input("evaluate", "weights", train.content["weights"])
    sampled = lineage.with_input("sample", "weights", train.content["weights"])
    later = {"train": train} | ({"evaluate": evaluated} if evaluated else {}) | ({"sample": sampled} if sampled else {})
    digests = [digest for one in later.values() for digest in one.inputs.values()]
    artifacts = {**origins(lineage, digests), **later}
    latents = artifacts.get("encode_latents")
    checked = lineage.with_input("check_base", "latents", latents.content.get("eval")) if latents else None
    if checked is not None and checked.inputs.get("transformer") == train.inputs.get("transformer"):
        artifacts["check_base"] = checked
    max_steps = train.config.get("max_steps")
    return Subject(
        lineage,
        title,
        TrainFacts.of(train).trajectory,
        artifacts,
        Recipe(train.stage, train.version, dict(train.config), train.inputs),
        ending or Ending(),
        max_steps if isinstance(max_steps, int) else None,
    )


def newest_attempt(store: Store, trajectory: str) -> str:
    """Return the trajectory that holds the work on a recipe: this one, or that of a forced run, which is salted."""
    names = [name for name in training_folders(store) if name == trajectory or name.startswith(f"{trajectory}-")]
    found = [(newest_checkpoint(store, name), name) for name in names]
    times = [(checkpoint.created_at, name) for checkpoint, name in found if checkpoint is not None]
    return max(times)[1] if times else trajectory


def checkpoints_of(subject: Subject) -> tuple[Checkpoint | None, list[Checkpoint], list[int]]:
    """Return the checkpoint whose metrics are reported, those that are kept, and all their steps; damaged ones not.

    Of a finished training the checkpoint is the last that its own metrics name: another run may have gone on from it.
    """
    store, steps = subject.store, checkpoint_steps(subject.store, subject.trajectory)
    if written := _segments(subject):
        steps = [step for step in steps if step <= max(one.last for one in written)]
    kept = []
    for step in steps[-_MAX_CHECKPOINTS:]:
        try:
            kept.append(read_checkpoint(store, subject.trajectory, step))
        except DamagedCheckpointError:
            continue
    return (kept[-1] if kept else None), kept, steps


@dataclass(frozen=True)
class Segment:
    """Rows of steps `first` to `last`, both included, that one attempt wrote."""

    key: str
    first: int
    last: int
    attempt: str


def segments_of(subject: Subject, newest: Checkpoint | None) -> list[Segment]:
    """Return the segments of metrics in order: those of the artifact, or of the newest checkpoint."""
    if subject.train is not None:
        return _segments(subject)
    of_checkpoint = newest.segments if newest else ()
    return [
        Segment(one.key, one.first, one.last, one.key.removesuffix(".jsonl").rpartition("-")[2])
        for one in of_checkpoint
    ]


def _segments(subject: Subject) -> list[Segment]:
    """Return what the names of a finished training's segments say."""
    found = []
    for key in TrainFacts.of(subject.train).metrics if subject.train else ():
        named = _SEGMENT.fullmatch(key.rpartition("/")[2])
        if named is not None:
            found.append(Segment(key, int(named[1]), int(named[2]), named[3]))
    return found


def read_numbers(store: Store, segments: Iterable[Segment]) -> tuple[Numbers, list[str]]:
    """Read the metrics piece by piece; beside them what could not be read, a line each."""
    numbers, problems = Numbers(), []
    for segment in segments:
        try:
            numbers.add(parse_rows(store.read(segment.key)), attempt=segment.attempt)
        except FileNotFoundError:
            problems.append(f"the metrics of steps {segment.first} to {segment.last} are gone")
        except ValueError as error:
            problems.append(f"the metrics of steps {segment.first} to {segment.last} are damaged: {error}")
    return numbers, problems


def eval_report(subject: Subject) -> EvalReport | None:
    """Read the numbers of the evaluation. Raises SanaError: they are gone or damaged."""
    return read_record(subject.store, subject.artifacts.get("evaluate"), EvalReport)


def base_report(subject: Subject) -> BaseCheckReport | None:
    """Read what the probes of the base model found. Raises SanaError: it is gone or damaged."""
    return read_record(subject.store, subject.artifacts.get("check_base"), BaseCheckReport)


def read_record(store: Store, artifact: Artifact | None, kind: type[R]) -> R | None:
    """Read the record that an artifact has as a file; None: there is no artifact. Raises SanaError as above."""
    if artifact is None or kind.FILE not in artifact.files:
        return None
    key = artifact.files[kind.FILE].key
    where, hint = store.uri(key), f"make it again: sana run CONFIG --force {artifact.stage}"
    try:
        return kind.from_json(store.read(key), where=where, repair_hint=hint)
    except FileNotFoundError as error:
        raise SanaError(f"{where} is gone; {hint}") from error
