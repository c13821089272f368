"""What is compared: trained models, checkpoints and exported models, with the evaluations that a root has of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sana.artifact import Artifact
from sana.comparison.evaluations import Evaluation, evaluations_of_training
from sana.comparison.lineage import Lineage
from sana.facts import BASELINE, EvaluateWeightsFacts, TrainFacts

Weights = Literal["live", "ema"]
EXPORTED = "exported"


@dataclass(frozen=True)
class Subject:
    """One of what is compared. `name` as it was asked for; `weights`: initial, live, ema or exported; `title`: of the
    config that made it, "" where nobody knows.

    `trained` is a training of its trajectory, which went on to a later step perhaps; None: there is none, or it is an
    exported model, whose `digest` names its weights.
    """

    name: str
    lineage: Lineage
    weights: str
    evaluations: tuple[Evaluation, ...]
    trained: Artifact | None = None
    trajectory: str = ""
    step: int | None = None
    digest: str = ""
    folder: str = ""  # of an exported model
    title: str = ""

    @property
    def is_trained(self) -> bool:
        """Whether it is what `trained` ended with, and not an earlier checkpoint."""
        return self.trained is not None and TrainFacts.of(self.trained).step == self.step


def trained_subject(name: str, lineage: Lineage, trained: Artifact, weights: Weights) -> Subject:
    """Return what a train artifact ended with."""
    facts = TrainFacts.of(trained)
    return checkpoint_subject(name, lineage, facts.trajectory, facts.step, weights)


def checkpoint_subject(name: str, lineage: Lineage, trajectory: str, step: int, weights: Weights) -> Subject:
    """Return the weights after a step of a trajectory; after step 0 those before training, which are the base's."""
    trainings = [one for one in lineage.all(TrainFacts.STAGE) if TrainFacts.of(one).trajectory == trajectory]
    at_step = [one for one in trainings if TrainFacts.of(one).step == step]
    which = BASELINE if step == 0 else weights
    evaluated = trainings if step == 0 else at_step
    evaluations = [found for one in evaluated for found in evaluations_of_training(lineage, one, which)]
    evaluations += [
        found
        for found in _on_request(lineage)
        if _of_checkpoint(EvaluateWeightsFacts.of(found.artifact), trajectory, step, which)
    ]
    trained = next(iter(at_step or trainings), None)
    return Subject(name, lineage, which, tuple(evaluations), trained, trajectory, step)


def exported_subject(name: str, lineage: Lineage, folder: str, digest: str) -> Subject:
    """Return an exported model, whose weights have this digest; what was measured of them is found in the root."""
    evaluations = tuple(one for one in _on_request(lineage) if one.artifact.inputs.get("weights") == digest)
    return Subject(name, lineage, EXPORTED, evaluations, digest=digest, folder=folder)


def checkpoint_digest_parts(trajectory: str, step: int, weights: str) -> list[str | int]:
    """Return what names a checkpoint's weights: a trajectory and a step determine their bytes, whoever wrote them."""
    return ["checkpoint", trajectory, step, weights]


def _on_request(lineage: Lineage) -> Iterator[Evaluation]:
    for found in lineage.all(EvaluateWeightsFacts.STAGE):
        yield Evaluation(lineage, found, EvaluateWeightsFacts.of(found).weights)


def _of_checkpoint(facts: EvaluateWeightsFacts, trajectory: str, step: int, weights: str) -> bool:
    return (facts.trajectory, facts.step, facts.weights) == (trajectory, step, weights)


def method_of(trained: Artifact | None) -> str:
    """Return the name of a training's method; "" where it is not known."""
    if trained is None:
        return ""
    settings = trained.config.get("method")
    return str(settings.get("name", "full")) if isinstance(settings, dict) else "full"
