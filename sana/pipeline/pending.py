"""What can be said of a stage before its inputs are known: which of its own settings were changed since it last ran."""

from dataclasses import replace
from itertools import islice
from typing import TypeVar

from sana.artifact import Artifact, Recipe, config_diff, history, latest
from sana.config.section import Section, by_todays_names
from sana.context import Context
from sana.errors import SanaError
from sana.pipeline import graph

T = TypeVar("T", Recipe, Artifact)

_LOOKED_AT = 20  # of a stage's earlier artifacts, the newest first
_PERHAPS = "cached if the same content comes out, else run"


def pending_detail(context: Context, name: str, waiting: str, *, forced: bool) -> str:
    """Say of a stage that waits for others (`waiting`) if it will run, and each change of its own that makes it run."""
    if forced:
        return f"on {waiting}: forced, will run"
    before = latest(context.store, name)
    if before is None:
        return f"on {waiting}: never run, will run"
    before, own = as_configured(context, before), _own_recipe(context, name)
    changed = config_diff(own, _comparable(before, own)) if own is not None else []
    if own is None or not changed:
        return f"on {waiting}: {_PERHAPS}"
    earlier = islice(history(context.store, name), _LOOKED_AT)
    if any(not config_diff(own, _comparable(as_configured(context, one), own)) for one in earlier):
        return f"on {waiting}: {'; '.join(changed)}, as in an earlier run; {_PERHAPS}"
    return f"on {waiting}: {'; '.join(changed)}; will run"


def as_configured(context: Context, made: T) -> T:
    """Return a recipe or an artifact with its settings named as the config names them today, to be shown."""
    section = getattr(context.config, made.stage, None)
    return replace(made, config=by_todays_names(type(section), made.config)) if isinstance(section, Section) else made


def _own_recipe(context: Context, name: str) -> Recipe | None:
    """Return a stage's recipe without what other stages give: its settings, and what else it reads, such as a model.

    It is made with the newest artifacts of the stages above. None when one of them was never run, or when it cannot be
    made now.
    """
    above: dict[str, Artifact] = {}
    for provider in set(graph.providers(context.config, name).values()):
        newest = latest(context.store, provider)
        if newest is None:
            return None
        above[provider] = newest
    inputs = graph.inputs_of(context.config, name, above)
    try:
        recipe = graph.stage(name).recipe(context, inputs)
    except SanaError:
        return None
    given = {digest for artifact in inputs.values() for digest in artifact.content.values()}
    inputs_left = {key: digest for key, digest in recipe.inputs.items() if digest not in given}
    return as_configured(context, replace(recipe, inputs=inputs_left))


def _comparable(before: Artifact, own: Recipe) -> Artifact:
    """Return an artifact with those of its inputs that `own` has."""
    return replace(before, inputs={key: digest for key, digest in before.inputs.items() if key in own.inputs})
