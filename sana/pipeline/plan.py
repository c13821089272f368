"""Plan: what a run would do, and why. Reads storage and the source listing; executes and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile

from sana.artifact import Artifact, config_diff, find, latest
from sana.context import Context
from sana.errors import SanaError, combine_errors
from sana.pipeline.graph import STAGES, stage, until
from sana.report.states import StageState

CACHED, PARTIAL, STALE, MISSING, PENDING = "cached", "partial", "stale", "missing", "pending"


@dataclass(frozen=True)
class StagePlan:
    """One stage: its state, why, and what would be done."""

    name: str
    state: str
    detail: str
    fingerprint: str = ""
    artifact: Artifact | None = None


def plan(context: Context, *, last: str | None = None, force: Sequence[str] = ()) -> list[StagePlan]:
    """Decide each stage from storage.

    Below the first stage that must run, inputs are not known yet: such a stage is pending. It will be cached if what
    is above it turns out to yield the same content as before.
    """
    plans: list[StagePlan] = []
    artifacts: dict[str, Artifact] = {}
    for name in until(last):
        module = stage(name)
        waiting = [upstream for upstream in module.INPUTS if upstream not in artifacts]
        if waiting:
            plans.append(
                StagePlan(name, PENDING, f"on {', '.join(waiting)}: cached if the same content comes out, else run")
            )
            continue
        decided = _decide(context, name, artifacts, forced=name in force)
        if decided.state == CACHED and decided.artifact is not None:
            artifacts[name] = decided.artifact
        plans.append(decided)
    return plans


def found(context: Context, name: str) -> Artifact | None:
    """Return a stage's artifact if it and all that is above it are there as they would be made now, else None."""
    artifacts: dict[str, Artifact] = {}
    for upstream in until(name):
        module = stage(upstream)
        if not all(above in artifacts for above in module.INPUTS):
            return None
        if (artifact := find(context.store, module.recipe(context, artifacts))) is not None:
            artifacts[upstream] = artifact
    return artifacts.get(name)


def _decide(context: Context, name: str, artifacts: dict[str, Artifact], *, forced: bool) -> StagePlan:
    module = stage(name)
    recipe = module.recipe(context, artifacts)
    artifact = find(context.store, recipe)
    if artifact is not None and not forced:
        return StagePlan(name, CACHED, "", recipe.fingerprint, artifact)
    done, total, unit = module.remaining(context, artifacts)
    if forced:
        return StagePlan(name, STALE, f"forced: run again ({total} {unit})", recipe.fingerprint)
    before = latest(context.store, name)
    why = config_diff(recipe, before)
    work = f"{total - done} of {total} {unit} to do" if done else f"{total} {unit} to do"
    if why:
        return StagePlan(name, STALE, f"{'; '.join(why)} -> {work}", recipe.fingerprint)
    if done:
        return StagePlan(name, PARTIAL, work, recipe.fingerprint)
    return StagePlan(name, MISSING, f"never run -> {work}", recipe.fingerprint)


def committed(context: Context) -> list[StageState]:
    """Return what storage has of each stage, and why not of the others. Executes and writes nothing.

    Where a source cannot be listed any more, the last download of the same config stands for it.
    """
    states: list[StageState] = []
    artifacts: dict[str, Artifact] = {}
    for name in until(None):
        module = stage(name)
        if waiting := [upstream for upstream in module.INPUTS if upstream not in artifacts]:
            states.append(StageState(name, "not run", why=f"waits for {', '.join(waiting)}"))
            continue
        try:
            found, why = find(context.store, module.recipe(context, artifacts)), ""
        except SanaError as error:
            before = latest(context.store, name) if not module.INPUTS else None
            found = before if before and before.config == context.config.download.hashed() else None
            why = f"{error}" if found is None else f"as it was when last listed: {error}"
        if found is None:
            states.append(StageState(name, "not run", why=why))
        else:
            artifacts[name] = found
            states.append(StageState(name, "committed", found, why))
    return states


def all_cached(plans: Sequence[StagePlan]) -> bool:
    return all(stage_plan.state == CACHED for stage_plan in plans)


def inputs_of(context: Context, name: str) -> dict[str, Artifact]:
    """Return the committed artifacts that a stage reads.

    Raises:
        SanaError: one of them, or one that it is made of, is not there.
    """
    wanted = stage(name).INPUTS
    last = max(wanted, key=STAGES.index)
    found = {done.name: done.artifact for done in plan(context, last=last) if done.artifact is not None}
    missing = [upstream for upstream in wanted if upstream not in found]
    if missing:
        raise SanaError(
            f"{name} reads what {', '.join(missing)} makes of these sources with this config, and that is not at "
            f"{context.store.root}; first: sana run CONFIG --until {last}"
        )
    return {upstream: found[upstream] for upstream in wanted}


def check_work_dir(context: Context) -> None:
    """Make work_dir, and a file in it for a moment. Before anything else: caches in it are read while planning.

    Raises:
        SanaError: it cannot be made or written.
    """
    try:
        context.work_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=context.work_dir):
            pass
    except OSError as error:
        raise SanaError(
            f"cannot write to work_dir {context.work_dir}: {error.strerror}; choose another work_dir"
        ) from error


def preflight(context: Context) -> list[str]:
    """Check what can be checked before anything runs: work_dir, the model, the sources and root.

    Returns what could not be looked into, one line each.

    Raises:
        SanaError: all that was found wrong, together.
    """
    from sana.data.sources.source_check import check_sources
    from sana.model.model_resolver import resolve_model

    check_work_dir(context)
    problems, notes = check_sources(context.config, work_dir=context.work_dir, read_only=context.read_only)
    try:
        resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    except SanaError as error:
        problems.append(error)
    try:
        context.store.check_writable()
    except SanaError as error:
        problems.append(error)
    if problems:
        raise combine_errors(problems)
    return notes
