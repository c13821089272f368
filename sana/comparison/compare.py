"""Compare: each side with the first, by losses, settings and data; and the videos of the same prompt and seed."""

from collections.abc import Sequence
from dataclasses import replace

from sana.artifact import Artifact, Recipe, config_diff
from sana.comparison.data import ClipDifference, DataSide, clip_difference, num_trained_on
from sana.comparison.evaluations import Evaluation, closest
from sana.comparison.losses import compare_losses
from sana.comparison.record import Comparison, ConfigChange, PairComparison, Side
from sana.comparison.subjects import Subject, method_of
from sana.comparison.videos import VideoSource, sample_rows
from sana.errors import SanaError
from sana.facts import EvaluateFacts

MAX_SIDES = 12
_LABELS = "ABCDEFGHIJKL"
_DATA = ("latents", "captions", "windows", "members", "clips")
_TOLD_ELSEWHERE = {f"input {name} changed" for name in ("weights", *_DATA)}


def compare(subjects: Sequence[Subject], *, with_data: bool = True) -> Comparison:
    """Compare each subject with the first; each has at least one evaluation.

    Raises:
        SanaError: fewer than two or more than MAX_SIDES of them, or two have nothing in common; names which.
    """
    if not 2 <= len(subjects) <= MAX_SIDES:
        raise SanaError(f"{len(subjects)} named, and 2 to {MAX_SIDES} can be compared")
    reference, notes = subjects[0], list[str]()
    chosen: list[Evaluation] = []
    pairs = []
    for label, subject in zip(_LABELS[1:], subjects[1:], strict=False):
        of_side, of_reference = closest(subject.evaluations, reference.evaluations)
        chosen = chosen or [of_reference]
        chosen.append(of_side)
        try:
            losses = compare_losses(of_side, of_reference)
        except SanaError as error:
            raise SanaError(f"{subject.name} and {reference.name} cannot be compared: {error}") from error
        leaks = (*_leaks(label, subject, of_side), *_leaks("A", reference, of_reference))
        losses = replace(losses, notes=(*leaks, *losses.notes))
        said: list[str] = []
        config = _config_changes(subject, reference, of_side, of_reference)
        train, evaluated = _data(subject, reference, of_side, of_reference, said) if with_data else (None, None)
        pairs.append(PairComparison(label, "A", losses, config, train, evaluated, tuple(said)))
    sides = tuple(
        _side(label, subject, evaluation) for label, subject, evaluation in zip(_LABELS, subjects, chosen, strict=False)
    )
    sources = [
        VideoSource(side.label, subject.lineage, subject.trained, subject.trajectory, subject.step)
        for side, subject in zip(sides, subjects, strict=True)
    ]
    rows, video_notes = sample_rows(sources)
    return Comparison(sides, tuple(pairs), tuple(rows), tuple(notes + video_notes))


def _side(label: str, subject: Subject, evaluation: Evaluation) -> Side:
    separate = evaluation.separate_datasets
    table = evaluation.losses
    if separate and evaluation.samples is not None:
        table = table.of([name for name, one in evaluation.samples.items() if one.dataset not in separate])
    return Side(
        label=label,
        name=subject.name,
        root=subject.lineage.store.root,
        train=subject.trained.fingerprint if subject.trained is not None and subject.is_trained else "",
        trajectory=subject.trajectory,
        step=subject.step,
        weights=subject.weights,
        method=method_of(subject.trained),
        evaluated=evaluation.artifact.key,
        loss=table.mean(),
        stderr=table.stderr(),
        num_samples=len(table.sample_ids),
        title=subject.title,
    )


def _leaks(label: str, subject: Subject, evaluation: Evaluation) -> list[str]:
    """Say so if a side was trained on clips that it was evaluated on: of its own evaluate stage it never was."""
    if evaluation.artifact.stage == EvaluateFacts.STAGE or subject.trained is None or evaluation.samples is None:
        return []
    latents = subject.lineage.latents(subject.trained, "train")
    clips = {sample.clip_id for sample in evaluation.samples.values()}
    number = num_trained_on(subject.lineage, latents, clips) if latents and subject.step else 0
    told = (
        f"{label} was trained on {number} of the {len(clips)} clips that it was evaluated on: its loss there is too low"
    )
    return [told] if number else []


def _config_changes(
    side: Subject, reference: Subject, of_side: Evaluation, of_reference: Evaluation
) -> tuple[ConfigChange, ...]:
    """Return what differs in settings: of training, of how both were evaluated, and of what made their data."""
    pairs: list[tuple[Artifact | None, Artifact | None]] = [(side.trained, reference.trained)]
    if of_side.artifact.stage == of_reference.artifact.stage:
        pairs.append((of_side.artifact, of_reference.artifact))
    latents = (_latents(side, of_side), _latents(reference, of_reference))
    captions = (_captions(side, of_side), _captions(reference, of_reference))
    windows = (
        side.lineage.clips(latents[0]) if latents[0] else None,
        reference.lineage.clips(latents[1]) if latents[1] else None,
    )
    changes = [_changes(*pair) for pair in (*pairs, latents, captions, windows)]
    if side.step != reference.step and not (side.is_trained and reference.is_trained):  # else max_steps says it
        changes.insert(0, ConfigChange("step", (f"step {_step(reference)} -> {_step(side)}",)))
    return tuple(change for change in changes if change is not None and change.changes)


def _step(subject: Subject) -> str:
    return "(exported)" if subject.step is None else str(subject.step)


def _changes(side: Artifact | None, reference: Artifact | None) -> ConfigChange | None:
    if side is None or reference is None or side.fingerprint == reference.fingerprint or side.stage != reference.stage:
        return None
    recipe = Recipe(side.stage, side.version, side.config, side.inputs)
    # other weights are what is compared, and data has its own part
    told = [phrase for phrase in config_diff(recipe, reference) if phrase not in _TOLD_ELSEWHERE]
    return ConfigChange(side.stage, tuple(told))


def _latents(subject: Subject, evaluation: Evaluation) -> Artifact | None:
    if subject.trained is not None:
        return subject.lineage.latents(subject.trained, "train")
    return evaluation.lineage.latents(evaluation.artifact, "eval")


def _captions(subject: Subject, evaluation: Evaluation) -> Artifact | None:
    if subject.trained is not None:
        return subject.lineage.captions(subject.trained, "train")
    return evaluation.lineage.captions(evaluation.artifact, "eval")


def _data(
    side: Subject, reference: Subject, of_side: Evaluation, of_reference: Evaluation, said: list[str]
) -> tuple[ClipDifference | None, ClipDifference | None]:
    """Return how the clips of the train and of the eval split differ; why one is not known is said."""
    train = evaluated = None
    if side.trained is None or reference.trained is None:
        said.append("what an exported model was trained on is not known: data is compared for the eval split only")
    else:
        train = _clips(side, side.trained, reference, reference.trained, "train", said)
    evaluated = _clips(side, of_side.artifact, reference, of_reference.artifact, "eval", said)
    return train, evaluated


def _clips(
    side: Subject, made: Artifact, reference: Subject, before: Artifact, split: str, said: list[str]
) -> ClipDifference | None:
    sides = []
    for subject, artifact in ((reference, before), (side, made)):
        latents = subject.lineage.latents(artifact, split)
        if latents is None:
            said.append(f"the {split} clips of {subject.name} are not known any more: their table is gone (sana gc)")
            return None
        sides.append(DataSide(subject.lineage, latents, subject.lineage.captions(artifact, split), split))
    return clip_difference(*sides)
