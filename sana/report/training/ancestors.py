"""Earlier trainings of this root that this one goes on from or shares its data with, and what differs in the config."""

from collections.abc import Sequence
from dataclasses import dataclass

from sana.artifact import Artifact, Recipe, config_diff, digest_of
from sana.comparison.lineage import Lineage
from sana.facts import EvaluateFacts, TrainFacts
from sana.report.training.origins import newest

_MAX_SHOWN = 6
_DATA = ("latents", "captions")  # inputs by which two trainings have the same train samples


@dataclass(frozen=True)
class Ancestor:
    """An earlier training. `differences`: from its config to ours. `loss`, `stderr`: of its EMA weights, where they
    were evaluated on our held-out samples; else None.
    """

    fingerprint: str
    relation: str
    step: int
    created_at: float
    differences: Sequence[str]
    loss: float | None
    stderr: float | None


def ancestors(lineage: Lineage, recipe: Recipe, *, own: Artifact | None, evaluated: Artifact | None) -> list[Ancestor]:
    """Return those that training starts from, then those of the same trajectory or data, the newest first.

    Args:
        own: the artifact of this training, once there is one.
        evaluated: its evaluation, which says what the held-out samples are.

    Raises:
        SanaError: facts of one are damaged.
    """
    fingerprint = own.fingerprint if own else recipe.fingerprint
    before = own.created_at if own else float("inf")
    found: list[tuple[int, float, Artifact, str]] = []
    for one in newest(lineage, "train"):
        relation = _relation(recipe, one)
        if one.fingerprint != fingerprint and one.created_at <= before and relation is not None:
            found.append((relation[0], -one.created_at, one, relation[1]))
    found.sort(key=lambda pair: pair[:2])
    losses = _losses(lineage, evaluated) if found else {}
    return [
        Ancestor(
            one.fingerprint,
            words,
            TrainFacts.of(one).step,
            one.created_at,
            config_diff(recipe, one),
            *losses.get(one.content["weights"], (None, None)),
        )
        for _, _, one, words in found[:_MAX_SHOWN]
    ]


def recipe_of(artifact: Artifact) -> Recipe:
    """Return what an artifact was made by."""
    return Recipe(artifact.stage, artifact.version, dict(artifact.config), artifact.inputs)


def _relation(recipe: Recipe, other: Artifact) -> tuple[int, str] | None:
    """Return (rank, in words) of how an earlier training is related; None: it is not."""
    facts = TrainFacts.of(other)
    if recipe.inputs.get("init_from") == digest_of(["checkpoint", facts.trajectory, facts.step]):
        return 0, "this training starts from its weights"
    if [recipe.inputs.get(name) for name in _DATA] != [other.inputs.get(name) for name in _DATA]:
        return None
    settings = [{key: value for key, value in of.config.items() if key != "max_steps"} for of in (recipe, other)]
    same = settings[0] == settings[1] and dict(recipe.inputs) == dict(other.inputs)
    return 1, "the same training, up to another step" if same else "the same train samples"


def _losses(lineage: Lineage, evaluated: Artifact | None) -> dict[str, tuple[float, float | None]]:
    """Return the EMA eval loss, with its standard error, of every training on these held-out samples, by weights."""
    found: dict[str, tuple[float, float | None]] = {}
    if evaluated is None:
        return found
    asked = [evaluated.inputs.get(name) for name in _DATA]
    for one in newest(lineage, "evaluate"):
        if [one.inputs.get(name) for name in _DATA] == asked and one.config == evaluated.config:
            ema = EvaluateFacts.of(one).weights["ema"]
            found.setdefault(one.inputs["weights"], (ema.mean, ema.stderr))
    return found
