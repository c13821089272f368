"""The trainings of a root, a line each: finished ones from their artifacts, others from their checkpoints and runs.

Bounded: each artifact of train and evaluate, and each of encode_latents that is needed, is read once, in threads; a
stage's list is one listing. No model and no table is opened.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

from sana.artifact import Artifact
from sana.comparison.subjects import method_of
from sana.errors import SanaError
from sana.facts import EncodeLatentsFacts, EvaluateFacts, TrainFacts
from sana.record import Record
from sana.runs.listing import Run, RunState, runs_of
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint import training_folders
from sana.wording import one_line

WEIGHTS = "ema"  # those that are exported
MAX_RUNS = 1000  # newest runs that are looked at for names and attempts
MAX_UNTRAINED = 30
_AT_ONCE = 256  # artifacts read ahead
_Facts = TrainFacts | EvaluateFacts | EncodeLatentsFacts


@dataclass(frozen=True)
class Attempt(Record):
    """One run that worked on a training: one call of the pipeline."""

    run_id: str
    state: RunState
    started_at: float  # Unix time, seconds
    heard_at: float  # when it ended, or last said something
    error: str = ""
    name: str = ""  # of its config


@dataclass(frozen=True)
class TrainingRow(Record):
    """One training. `drop`: how far the eval loss fell from that before training, relative; it needs evaluate."""

    name: str  # of the config of its newest run; "": no run is on record
    state: Literal["finished", "unfinished"] | RunState  # of an unfinished one that of its newest run, if any
    train: str  # fingerprint of its artifact; "": it is not finished
    trajectory: str
    step: int | None  # None: no checkpoint yet
    method: str
    datasets: tuple[str, ...]  # trained on; empty: not known any more
    eval_loss: float | None  # of the EMA weights; None: not evaluated
    eval_stderr: float | None
    drop: float | None
    at: float | None  # when it was finished, or its newest run last said something; Unix time, seconds
    num_bytes: int | None  # of the exported model and tables
    attempts: tuple[Attempt, ...] = ()  # newest first


@dataclass(frozen=True)
class TrainingList(Record):
    """The trainings of a root that were asked for, of so many."""

    root: str
    total: int
    trainings: tuple[TrainingRow, ...]
    trouble: tuple[str, ...] = field(default_factory=tuple)  # records that cannot be read
    untrained: tuple[Attempt, ...] = ()  # the newest runs that came to no training, at most MAX_UNTRAINED


def trainings_of(store: Store, *, now: float, limit: int | None = None) -> TrainingList:
    """Return the trainings of a root, the newest first; with a limit that many of the finished ones are read.

    An artifact that is damaged or of another version hides no other: it is left out, and in `trouble`.

    Raises:
        StoreError: storage does not answer.
    """
    trouble: list[str] = []
    fingerprints = newest_first(store, TrainFacts.STAGE)
    trained = list(islice(_read_artifacts(store, TrainFacts, fingerprints, trouble), limit))
    evaluated = _evaluations(store, trained, trouble)
    datasets = _datasets(store, trained, trouble)
    runs = runs_of(store, limit=MAX_RUNS)
    attempts = _attempts(runs, now)
    rows = [
        _finished(artifact, evaluated.get(artifact.content.get("weights", "")), datasets, attempts)
        for artifact in trained
    ]
    known = {row.trajectory for row in rows}
    begun = {trajectory for trajectory, runs in attempts.items() if not runs.is_trained}
    if limit is None:  # else it is not known of every folder whether it is of a finished one
        begun |= set(training_folders(store))
    unfinished = _unfinished(store, begun - {*fingerprints, *known}, attempts)
    every = sorted([*rows, *unfinished], key=lambda row: (row.at or 0.0, row.trajectory), reverse=True)
    total = len(fingerprints) + len(unfinished)
    untrained = tuple(islice((_attempt(run, now) for run in runs if not run.trajectory), MAX_UNTRAINED))
    return TrainingList(store.root, total, tuple(every if limit is None else every[:limit]), tuple(trouble), untrained)


def newest_first(store: Store, stage: str) -> list[str]:
    """Return the fingerprints of a stage's artifacts, that which was committed last first: one listing."""
    names = (key.rpartition("-")[2] for key, _ in reversed(store.list(f"{stage}/history")))
    return list(dict.fromkeys(names))


def _read_artifacts(
    store: Store, kind: type[_Facts], fingerprints: Sequence[str], trouble: list[str]
) -> Iterator[Artifact]:
    """Yield artifacts in this order, one read each, some ahead; those that are gone are left out.

    Of one that was committed again the first commit is read: it differs where a forced run gave other content.
    """
    for start in range(0, len(fingerprints), _AT_ONCE):
        keys = [f"{kind.STAGE}/{name}/artifact.json" for name in fingerprints[start : start + _AT_ONCE]]
        for found in in_threads(partial(_read, store, kind), keys):
            if isinstance(found, Artifact):
                yield found
            elif found and found not in trouble:
                trouble.append(found)


def _read(store: Store, kind: type[_Facts], key: str) -> Artifact | str:
    """Return an artifact whose facts can be read; else why not, "" for one that is gone."""
    try:
        artifact = Artifact.from_json(store.read(key), where=store.uri(key))
        kind.of(artifact)
    except FileNotFoundError:
        return ""
    except StoreError:
        raise
    except SanaError as error:
        return one_line(error)
    return artifact


def _evaluations(store: Store, trained: Iterable[Artifact], trouble: list[str]) -> dict[str, Artifact]:
    """Return the newest evaluation of each of these trainings, by the digest of its weights."""
    wanted = {artifact.content.get("weights", "") for artifact in trained}
    found: dict[str, Artifact] = {}
    if wanted:
        for artifact in _read_artifacts(store, EvaluateFacts, newest_first(store, EvaluateFacts.STAGE), trouble):
            weights = artifact.inputs.get("weights", "")
            if weights in wanted and weights not in found:
                found[weights] = artifact
                if len(found) == len(wanted):
                    break
    return found


def _datasets(store: Store, trained: Iterable[Artifact], trouble: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the data sets that each content of the train split is of, by its digest."""
    wanted = {artifact.inputs.get("latents", "") for artifact in trained}
    found: dict[str, tuple[str, ...]] = {}
    if wanted:
        names = newest_first(store, EncodeLatentsFacts.STAGE)
        for artifact in _read_artifacts(store, EncodeLatentsFacts, names, trouble):
            if (digest := artifact.content.get("train", "")) in wanted:
                found[digest] = tuple(sorted(EncodeLatentsFacts.of(artifact).train_samples))
                if len(found) == len(wanted):
                    break
    return found


@dataclass(frozen=True)
class _OfTraining:
    """The runs that worked on a training, the newest first; the name of its config, and how far the newest run is."""

    name: str
    attempts: tuple[Attempt, ...]
    step: int | None
    is_trained: bool


def _attempts(runs: Iterable[Run], now: float) -> dict[str, _OfTraining]:
    """Return the runs by the trajectory that they worked on; `runs` have the newest first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.trajectory:
            found.setdefault(run.trajectory, []).append(run)
    return {trajectory: _of_training(every, now) for trajectory, every in found.items()}


def _of_training(runs: Sequence[Run], now: float) -> _OfTraining:
    attempts = tuple(_attempt(run, now) for run in runs)
    status = runs[0].status
    stage = status.stages.get(TrainFacts.STAGE) if status else None
    is_trained = stage is not None and stage.state in ("cached", "completed", "reproduced")
    return _OfTraining(runs[0].started.title, attempts, stage.done if stage else None, is_trained)


def _attempt(run: Run, now: float) -> Attempt:
    error = run.ended.error if run.ended else ""
    return Attempt(run.run_id, run.state(now), run.started.started_at, run.heard_at, error, run.started.title)


def _finished(
    trained: Artifact,
    evaluated: Artifact | None,
    datasets: Mapping[str, tuple[str, ...]],
    attempts: Mapping[str, _OfTraining],
) -> TrainingRow:
    facts = TrainFacts.of(trained)
    runs = attempts.get(facts.trajectory)
    losses = EvaluateFacts.of(evaluated) if evaluated is not None else None
    loss = losses.weights.get(WEIGHTS) if losses else None
    paired = losses.paired.get(WEIGHTS) if losses else None
    return TrainingRow(
        name=runs.name if runs else "",
        state="finished",
        train=trained.fingerprint,
        trajectory=facts.trajectory,
        step=facts.step,
        method=method_of(trained),
        datasets=datasets.get(trained.inputs.get("latents", ""), ()),
        eval_loss=loss.mean if loss else None,
        eval_stderr=loss.stderr if loss else None,
        drop=paired.relative_drop if paired else None,
        at=trained.created_at,
        num_bytes=sum(file.num_bytes for file in trained.files.values()),
        attempts=runs.attempts if runs else (),
    )


def _unfinished(store: Store, trajectories: set[str], attempts: Mapping[str, _OfTraining]) -> list[TrainingRow]:
    """Return the trainings that have checkpoints or a run, and no artifact."""
    rows = []
    for trajectory in sorted(trajectories):
        runs = attempts.get(trajectory)
        steps = [name.removeprefix("step_") for name in store.list_dirs(f"train/{trajectory}/checkpoints")]
        step = max((int(number) for number in steps if number.isdigit()), default=None)
        if runs is None and step is None:
            continue  # nothing is left of it
        live = max((number for number in (step, runs.step if runs else None) if number is not None), default=None)
        rows.append(
            TrainingRow(
                name=runs.name if runs else "",
                state=runs.attempts[0].state if runs else "unfinished",
                train="",
                trajectory=trajectory,
                step=live,
                method="",
                datasets=(),
                eval_loss=None,
                eval_stderr=None,
                drop=None,
                at=runs.attempts[0].heard_at if runs else None,
                num_bytes=None,
                attempts=runs.attempts if runs else (),
            )
        )
    return rows
