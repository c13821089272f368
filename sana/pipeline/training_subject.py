"""What the run report of a config is about: its training, as storage has it, finished or not."""

from collections.abc import Mapping
from dataclasses import replace

from sana.artifact import Artifact, Recipe
from sana.comparison.lineage import Lineage
from sana.context import Context
from sana.pipeline import graph
from sana.pipeline.graph import stage
from sana.report.training.subject import Subject, finished_subject, newest_attempt
from sana.report.training.verdict import Ending
from sana.stages.train import trajectory_of


def subject_of(
    context: Context,
    title: str,
    artifacts: Mapping[str, Artifact],
    *,
    ending: Ending | None = None,
    recipe: Recipe | None = None,
) -> Subject | None:
    """Return the training of a config; None: what it reads is not made yet, so nothing can have been trained.

    Args:
        artifacts: what is committed of the config's stages, by name; an evaluation or samples that are not among them
            are looked for.
        ending: how the last run ended, where that is known.
        recipe: of the train stage, where it is known.
    """
    lineage, config = Lineage(context.store), context.config
    train = artifacts.get("train")
    if train is not None:
        found = finished_subject(lineage, train, title=title, ending=ending)
        known = {**{name: one for name, one in found.artifacts.items() if name not in artifacts}, **artifacts}
        ordered = {name: known[name] for name in graph.stages_of(config) if name in known}
        return replace(found, artifacts=ordered, prompts=config.sample.prompts)
    recipe = recipe or _recipe(context, artifacts)
    if recipe is None:
        return None
    trajectory = newest_attempt(context.store, trajectory_of(recipe))
    return Subject(
        lineage,
        title,
        trajectory,
        dict(artifacts),
        recipe,
        ending or Ending(),
        config.train.max_steps,
        config.sample.prompts,
    )


def _recipe(context: Context, artifacts: Mapping[str, Artifact]) -> Recipe | None:
    above = graph.providers(context.config, "train").values()
    if any(name not in artifacts for name in above):
        return None
    return stage("train").recipe(context, graph.inputs_of(context.config, "train", artifacts))
