"""What a name means: a fingerprint or trajectory, or the beginning of one, and perhaps `@STEP` of a checkpoint."""

import re
from difflib import get_close_matches

from sana.artifact import Artifact
from sana.comparison.lineage import Lineage
from sana.comparison.subjects import Subject, Weights, checkpoint_subject, trained_subject
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.training.checkpoints.checkpoint import checkpoint_steps, training_folders
from sana.wording import first_of

_NAMED = re.compile(r"([0-9a-z-]{4,64})(?:@(\d{1,8}))?")
_SHOWN = 6


def find_subject(name: str, lineage: Lineage, weights: Weights) -> Subject:
    """Return the training, or the checkpoint of one, that a name means.

    Raises:
        SanaError: there is no such training or step, or several begin so; names the nearest.
    """
    match = _NAMED.fullmatch(name)
    if match is None:
        raise SanaError(f"{name!r} is no fingerprint or trajectory, such as 3fa9c1d2@500; {_there_are(lineage, name)}")
    begin, step = match[1], int(match[2]) if match[2] else None
    trainings = [one for one in lineage.all(TrainFacts.STAGE) if one.fingerprint.startswith(begin)]
    finished = {TrainFacts.of(one).trajectory for one in lineage.all(TrainFacts.STAGE)}
    begun = finished | set(training_folders(lineage.store))
    of_trajectory = {one.fingerprint for one in trainings}
    trajectories = sorted(one for one in begun - of_trajectory if one.startswith(begin))
    if len(trainings) + len(trajectories) > 1:
        every = sorted([*of_trajectory, *trajectories])
        exact = [one for one in every if one == begin]
        if not exact:
            raise SanaError(
                f"{begin} is the beginning of {len(every)} trainings, {first_of(every[:_SHOWN], len(every))}; write "
                "more of it"
            )
        trainings = [one for one in trainings if one.fingerprint == begin]
        trajectories = [one for one in trajectories if one == begin]
    if trainings:
        return _of_training(name, lineage, trainings[0], step, weights)
    if not trajectories:
        raise SanaError(f"{lineage.store.root} has no training {name}; {_there_are(lineage, begin)}")
    steps = checkpoint_steps(lineage.store, trajectories[0])
    known = {
        TrainFacts.of(one).step for one in lineage.all("train") if TrainFacts.of(one).trajectory == trajectories[0]
    }
    return _at_step(name, lineage, trajectories[0], step, sorted({*steps, *known}), weights)


def _of_training(name: str, lineage: Lineage, trained: Artifact, step: int | None, weights: Weights) -> Subject:
    if step is None:
        return trained_subject(name, lineage, trained, weights)
    facts = TrainFacts.of(trained)
    steps = {*checkpoint_steps(lineage.store, facts.trajectory), facts.step}
    return _at_step(name, lineage, facts.trajectory, step, sorted(steps), weights)


def _at_step(
    name: str, lineage: Lineage, trajectory: str, step: int | None, steps: list[int], weights: Weights
) -> Subject:
    if step is None and not steps:
        raise SanaError(f"training {name} has no checkpoint yet; compare it when it has one")
    if step and step not in steps:
        raise SanaError(
            f"{name}: there is no checkpoint of step {step} (steps there: {', '.join(map(str, steps)) or 'none'}); "
            "name one of them, or 0 for the weights before training"
        )
    return checkpoint_subject(name, lineage, trajectory, steps[-1] if step is None else step, weights)


def _there_are(lineage: Lineage, name: str) -> str:
    known = [one.fingerprint for one in lineage.all(TrainFacts.STAGE)]
    if not known:
        return "it has no finished training: sana run CONFIG makes one"
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"it has {first_of(known[:_SHOWN], len(known))}"
