"""What a run that did not come to its end tells: what is done, where it ended, what is kept and how to continue."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from flows.display.stage_view import NOT_REACHED, StageView
from sana.artifact import Artifact
from sana.context import Context
from sana.errors import SanaError
from sana.pipeline.graph import stage
from sana.pipeline.observers import FAILED
from sana.pipeline.plan import StagePlan


def rows_of_run(names: Sequence[str], views: Mapping[str, StageView]) -> list[tuple[str, str, Artifact | str]]:
    """Return a row of the table for each stage that was to run: the artifact it made, else what it had done."""
    rows: list[tuple[str, str, Artifact | str]] = []
    for name in names:
        view = views.get(name)
        if view is None:
            rows.append((name, NOT_REACHED, ""))
        else:
            rows.append((name, view.state, view.artifact or (f"{view.counts()} done" if view.counts() else "")))
    return rows


def rows_of_plan(plans: Sequence[StagePlan]) -> list[tuple[str, str, Artifact | str]]:
    """Return a row for each stage of a run that ends before it starts, at the first stage that rejects too much."""
    stops = next(number for number, one in enumerate(plans) if one.stops)
    rows: list[tuple[str, str, Artifact | str]] = [(p.name, p.state, p.artifact or "") for p in plans[:stops]]
    rows.append((plans[stops].name, FAILED, plans[stops].artifact or ""))
    return rows + [(p.name, NOT_REACHED, "") for p in plans[stops + 1 :]]


def how_to_continue(context: Context, view: StageView, command: str, force: Collection[str]) -> str:
    """Say where a stage ended, what of it is kept, and the command that continues.

    `command` is without --force; a forced stage that did not end is to be forced again.
    """
    name, state, progress = view.name, view.state, view.progress
    if view.artifact is not None:
        return f"{name} is committed, but the run cannot go on with it; when that is changed: {command}"
    at = ""
    if progress is not None:
        in_steps = progress.unit == "steps"
        at = f" at step {progress.done} of {progress.total}" if in_steps else f" at {view.counts()}"
    if name in force:
        return f"{name} {state}{at}; forced work starts again: {command} --force {name}"
    kept = _kept(context, view)
    parts = [f"{name} {state}{at}", *([kept] if kept else [])]
    how = "resume" if kept else "run it again"
    parts.append(f"when that is mended, {how}: {command}" if state == FAILED else f"{how}: {command}")
    return "; ".join(parts)


def _kept(context: Context, view: StageView) -> str:
    """Say what storage has of a stage's work; "" for nothing, and where storage does not answer."""
    try:
        done, total, unit = stage(view.name).remaining(replace(context, read_only=True), view.inputs)
    except (SanaError, OSError, KeyError):
        return ""
    if not done:
        return ""
    return f"checkpoint at step {done}" if unit == "steps" else f"{done} of {total} {unit} are kept"
