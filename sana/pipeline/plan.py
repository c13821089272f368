"""Plan: what a run would do, and why. Reads storage and the source listing; executes and writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from sana.artifact import Artifact, Recipe, config_diff, find, latest
from sana.context import Context
from sana.data.rejections import check_rejects
from sana.errors import RejectedError, SanaError, combine_errors
from sana.pipeline import graph
from sana.pipeline.graph import stage
from sana.pipeline.pending import as_configured, pending_detail
from sana.pipeline.rehash import Rehashed
from sana.report.states import StageState

CACHED, PARTIAL, STALE, MISSING, PENDING = "cached", "partial", "stale", "missing", "pending"


@dataclass(frozen=True)
class StagePlan:
    """One stage: its state, why, and what would be done."""

    name: str
    state: str
    detail: str
    recipe: Recipe | None = None  # None while its inputs are not known
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    artifact: Artifact | None = None
    stops: RejectedError | None = None  # why a run ends here although this is cached
    must_force: bool = False  # what it reads changed, and its recipe does not show it
    work: tuple[int, int] | None = None  # how much is done, of how much; None: cached, or not known yet

    @property
    def fingerprint(self) -> str:
        """The recipe's, or "" while there is none."""
        return self.recipe.fingerprint if self.recipe else ""


def plan(
    context: Context, *, last: str | None = None, force: Sequence[str] = (), rehashed: Rehashed | None = None
) -> list[StagePlan]:
    """Decide each stage from storage; and, where files were `rehashed`, from what they hold.

    Below the first stage that must run, inputs are not known yet: such a stage is pending. It will be cached if what
    is above it turns out to yield the same content as before, and if none of its own settings was changed.

    Raises:
        ConfigError: `last`, or a stage in `force`, is not one that the config uses, or `force` has one after `last`.
    """
    plans: list[StagePlan] = []
    artifacts: dict[str, Artifact] = {}
    graph.check_force(context.config, force, last)
    for name in graph.until(context.config, last):
        if waiting := _waits_for(context, name, artifacts):
            plans.append(StagePlan(name, PENDING, pending_detail(context, name, waiting, forced=name in force)))
            continue
        inputs = graph.inputs_of(context.config, name, artifacts)
        decided = _decide(context, name, inputs, forced=name in force)
        if rehashed is not None and not stage(name).READS and decided.artifact is not None:
            decided = _where_rehashed(context, decided, rehashed, decided.artifact)
        if decided.state == CACHED and decided.artifact is not None:
            artifacts[name] = decided.artifact
        plans.append(decided)
    return plans


def _where_rehashed(context: Context, decided: StagePlan, rehashed: Rehashed, artifact: Artifact) -> StagePlan:
    """Return the plan of a cached stage that reads the sources: it is stale where a file changed without a sign."""
    why = rehashed.why_again(context.store, artifact)
    if not why:
        return decided
    _, total, unit = stage(decided.name).remaining(context, decided.inputs)
    detail = f"{why}; {_to_do(0, total, unit)}"
    return StagePlan(decided.name, STALE, detail, decided.recipe, decided.inputs, must_force=True, work=(0, total))


def _waits_for(context: Context, name: str, artifacts: Mapping[str, Artifact]) -> str:
    """Name the stages that provide what this one reads and have no artifact yet; empty when it can be decided."""
    above = dict.fromkeys(graph.providers(context.config, name).values())
    return ", ".join(one for one in above if one not in artifacts)


def found(context: Context, name: str) -> Artifact | None:
    """Return a stage's artifact if it and all that is above it are there as they would be made now, else None."""
    artifacts: dict[str, Artifact] = {}
    for above in graph.until(context.config, name):
        if _waits_for(context, above, artifacts):
            continue
        recipe = stage(above).recipe(context, graph.inputs_of(context.config, above, artifacts))
        if (artifact := find(context.store, recipe)) is not None:
            artifacts[above] = artifact
    return artifacts.get(name)


def _decide(context: Context, name: str, inputs: Mapping[str, Artifact], *, forced: bool) -> StagePlan:
    module = stage(name)
    recipe = module.recipe(context, inputs)
    artifact = find(context.store, recipe)
    if artifact is not None and not forced:
        return StagePlan(name, CACHED, "", recipe, inputs, artifact, _why_it_stops(context, artifact))
    done, total, unit = module.remaining(context, inputs)
    if forced:
        return StagePlan(name, STALE, f"forced: run again ({total} {unit})", recipe, inputs, work=(0, total))
    before = latest(context.store, name)
    why = config_diff(as_configured(context, recipe), before and as_configured(context, before))
    to_do, work = _to_do(done, total, unit), (done, total)
    if why:
        return StagePlan(name, STALE, f"{'; '.join(why)}; {to_do}", recipe, inputs, work=work)
    if done:
        return StagePlan(name, PARTIAL, to_do, recipe, inputs, work=work)
    return StagePlan(name, MISSING, f"never run; {to_do}", recipe, inputs, work=work)


def _to_do(done: int, total: int, unit: str) -> str:
    """Say what is left, such as `80 of 200 steps to do` or `1 video to do`."""
    if done:
        return f"{total - done} of {total} {unit} to do"
    return f"{total} {unit.removesuffix('s') if total == 1 else unit} to do"


def _why_it_stops(context: Context, artifact: Artifact) -> RejectedError | None:
    """Return the error with which a run ends once it has found this artifact, if it does."""
    try:
        check_rejects(context.config, artifact, context.store)
    except RejectedError as error:
        return error
    return None


def committed(context: Context) -> list[StageState]:
    """Return what storage has of each stage, and why not of the others. Executes and writes nothing.

    Where a source cannot be listed any more, the last download of the same config is taken instead.
    """
    states: list[StageState] = []
    artifacts: dict[str, Artifact] = {}
    for name in graph.stages_of(context.config):
        if waiting := _waits_for(context, name, artifacts):
            states.append(StageState(name, "not run", why=f"waits for {waiting}"))
            continue
        try:
            recipe = stage(name).recipe(context, graph.inputs_of(context.config, name, artifacts))
            found, why = find(context.store, recipe), ""
        except SanaError as error:
            before = latest(context.store, name) if not stage(name).READS else None
            found = before if before and before.config == context.config.download.hashed() else None
            why = f"{error}" if found is None else f"as it was when last listed: {error}"
        if found is None:
            states.append(StageState(name, "not run", why=why))
        else:
            artifacts[name] = found
            states.append(StageState(name, "committed", found, why))
    return states


def never_finished(context: Context, last: str | None) -> bool:
    """Tell whether the last stage was never committed under this root, so that there is work whatever the plan says."""
    return latest(context.store, graph.until(context.config, last)[-1]) is None


def all_cached(plans: Sequence[StagePlan]) -> bool:
    return all(stage_plan.state == CACHED for stage_plan in plans)


def inputs_of(context: Context, name: str, *, command: str = "sana run CONFIG") -> dict[str, Artifact]:
    """Return the committed artifacts that provide the tables a stage reads, by table; `command` would make them.

    Raises:
        SanaError: one of them, or one that it is made of, is not there.
    """
    above = graph.providers(context.config, name).values()
    last = max(above, key=graph.STAGES.index)
    found = {done.name: done.artifact for done in plan(context, last=last) if done.artifact is not None}
    missing = [one for one in dict.fromkeys(above) if one not in found]
    if missing:
        raise SanaError(
            f"{name} reads what {', '.join(missing)} makes of these sources with this config, and that is not at "
            f"{context.store.root}; first: {command} --until {last}"
        )
    return graph.inputs_of(context.config, name, found)


def check_work_dir(work_dir: Path) -> None:
    """Make work_dir, and a file in it for a moment. Before anything else: caches in it are read while planning.

    Raises:
        SanaError: it cannot be made or written.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=work_dir, buffering=0) as file:
            file.write(bytes(4096))  # a full disk may still make empty files
    except OSError as error:
        raise SanaError(f"cannot write to work_dir {work_dir}: {error.strerror}; choose another work_dir") from error


def preflight(context: Context) -> list[str]:
    """Check what can be checked before anything runs: work_dir, the model, the sources and root.

    Returns what could not be looked into, one line each.

    Raises:
        SanaError: all that was found wrong, together.
    """
    from sana.data.picture_file import picture_digest
    from sana.data.sources.source import sources_of
    from sana.data.sources.source_check import check_sources
    from sana.model.features.encoder_files import resolve_encoder
    from sana.model.model_resolver import resolve_model
    from sana.stages.bodies.trainable_here import check_named_parameters

    check_work_dir(context.work_dir)
    # those that planning listed, when it kept them; else each is opened by itself, so that all errors are found
    opened = context.once(sources_of) if context.opened else None
    problems, notes = check_sources(
        context.config, work_dir=context.work_dir, read_only=context.read_only, opened=opened
    )
    try:
        resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
        check_named_parameters(context.config, work_dir=context.work_dir, read_only=context.read_only)
    except SanaError as error:
        problems.append(error)
    try:
        if context.config.train.crepa is not None:
            resolve_encoder(context.config.encode_features, work_dir=context.work_dir, read_only=context.read_only)
    except SanaError as error:
        problems.append(error)
    for name, path in context.config.sample.images.items():  # else it is missed when training is done
        try:
            picture_digest(path, where=f"sample.images.{name}")
        except SanaError as error:
            problems.append(error)
    try:
        context.store.check_writable()
    except SanaError as error:
        problems.append(error)
    if problems:
        raise combine_errors(problems)
    return notes
