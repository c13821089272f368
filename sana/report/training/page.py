"""The run report: one HTML page on one training, made from storage alone, finished or not.

Equal artifacts give equal bytes, but for the stated time. What it says and how it looks is in `templates/training/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sana import metrics as m
from sana.artifact import Artifact, flat_config
from sana.facts import TrainFacts
from sana.report.html import render
from sana.report.training.ancestors import ancestors
from sana.report.training.attempts import attempts, marks, trouble
from sana.report.training.clips import clips
from sana.report.training.curves import curves
from sana.report.training.data import trained_data
from sana.report.training.evaluated import loss_rows, sigma_chart
from sana.report.training.numbers import Numbers
from sana.report.training.runs import TrainingRuns, beyond, runs_of_training
from sana.report.training.subject import (
    Subject,
    base_report,
    checkpoints_of,
    eval_report,
    read_numbers,
    segments_of,
)
from sana.report.training.verdict import verdict


@dataclass(frozen=True)
class StageCost:
    """What a stage took, in seconds: the attempt that committed it; of train the steps of all attempts."""

    stage: str
    seconds: float


def training_report(subject: Subject, *, now: float) -> str:
    """Make the page of a training.

    Args:
        now: seconds since 1970, stated on the page.

    Raises:
        SanaError: a record of an artifact is gone or damaged. What is lost of metrics or videos is said on the page.
    """
    store, train = subject.store, subject.train
    newest, kept, steps = checkpoints_of(subject)
    segments = segments_of(subject, newest)
    numbers, problems = read_numbers(store, segments)
    runs = runs_of_training(store, subject.trajectory, now=now)
    subject = _completed(subject, runs)
    if train is None:
        numbers.add(beyond(runs.live, numbers.last_step))
    tried = attempts([(one.attempt, one.first, one.last) for one in segments], kept, numbers)
    report, wrong = eval_report(subject), trouble(numbers)
    step = TrainFacts.of(train).step if train else numbers.last_step
    best = _best_step(subject, numbers)
    evaluated = subject.artifacts.get("evaluate")
    train_s = sum(one.train_s + one.other_s for one in tried)
    return render(
        "training/page.html.j2",
        subject=subject,
        now=now,
        root=store.root,
        step=step,
        compute=newest.compute if newest else None,
        verdict=verdict(
            report=report,
            numbers=numbers,
            ending=subject.ending,
            step=step,
            max_steps=subject.max_steps,
            finished=train is not None,
            best_step=best,
            base=base_report(subject),
        ),
        report=report,
        loss_rows=loss_rows(report) if report else [],
        sigma_chart=sigma_chart(report.weights) if report else None,
        curves=curves(numbers, marks(steps, tried, wrong, best)),
        clips=clips(store, subject.trajectory, subject.artifacts.get("sample"), step=step, texts=dict(subject.prompts)),
        data=trained_data(subject.data),
        config=flat_config(subject.recipe.config) if subject.recipe else {},
        ancestors=ancestors(subject.lineage, subject.recipe, own=train, evaluated=evaluated) if subject.recipe else [],
        attempts=tried,
        runs=runs.lines,
        trouble=wrong,
        problems=problems,
        checkpoints=[(one, sum(file.num_bytes for file in one.files.values())) for one in kept],
        num_checkpoints=len(steps),
        best_step=best,
        costs=_costs(subject.artifacts, train_s),
        train_seconds=train_s,
        rate=numbers.curve(m.SAMPLES_PER_S).last,
    )


def _completed(subject: Subject, runs: TrainingRuns) -> Subject:
    """Fill in what only the record of the newest run says."""
    train, sample = (runs.config.get(name) or {} for name in ("train", "sample"))
    name = subject.train.fingerprint if subject.train else subject.trajectory
    return replace(
        subject,
        title=subject.title or runs.title or f"training {name}",
        ending=subject.ending if subject.ending.state else runs.ending,
        max_steps=subject.max_steps or train.get("max_steps"),
        prompts=subject.prompts or sample.get("prompts") or {},
    )


def _best_step(subject: Subject, numbers: Numbers) -> int | None:
    """Return the step that early stopping found best; None where the config has none."""
    if subject.recipe is None or not subject.recipe.config.get("early_stopping"):
        return None
    best = numbers.curve(m.BEST_STEP).last
    return None if best is None else int(best)


def _costs(artifacts: Mapping[str, Artifact], train_s: float) -> list[StageCost]:
    """Return the seconds of each stage; train, which may have resumed, counts what all its steps took."""
    seconds = {name: one.seconds for name, one in artifacts.items()}
    if train_s:
        seconds["train"] = max(train_s, 0.0)
    return [StageCost(name, took) for name, took in seconds.items()]
