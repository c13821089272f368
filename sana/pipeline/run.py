"""Run: each stage is looked up in storage, and made if it is not there. No Prefect here: flows and tests use it.

with Run(context, title="demo", observers=[...]) as run:
    done = run_stages(run, graph.until(context.config, "train"))
"""

import logging
from asyncio import CancelledError  # by which Prefect ends what takes too long
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from uuid import uuid4

from sana.artifact import Artifact, Recipe, find
from sana.context import Context
from sana.data.rejections import check_rejects
from sana.errors import FullDiskExplained
from sana.pipeline import graph
from sana.pipeline.graph import Stage
from sana.pipeline.observers import (
    CACHED,
    COMPLETED,
    FAILED,
    REPRODUCED,
    STOPPED,
    Committed,
    Observer,
    Observers,
    RunStart,
    StageEnd,
    StageStart,
    WorkStart,
)
from sana.pipeline.plan import StagePlan
from sana.progress import Progress

log = logging.getLogger(__name__)
Before = Callable[[Context, Mapping[str, Artifact]], None]


@dataclass(frozen=True)
class Done:
    """How a stage ended: `state` is cached, completed, or, for equal content made again, reproduced."""

    stage: str
    state: str
    artifact: Artifact


class Run:
    """What every stage of one run is given: a context manager around the whole of it.

    `plans` are what was decided on this very context, so that no recipe is made twice and no source is listed twice;
    without them the stages decide by themselves. What planning opened is kept until the first stage has ended.
    (No dataclass: Prefect looks through the fields of those for futures.)
    """

    def __init__(
        self,
        context: Context,
        *,
        title: str = "",
        force: Iterable[str] = (),
        observers: Sequence[Observer] = (),
        plans: Iterable[StagePlan] = (),
    ) -> None:
        self.context = context if context.opened is not None else context.keeping_opened()
        self.title = title
        self.force = frozenset(force)
        self.salt = uuid4().hex[:8]  # of forced stages: one for all attempts, so that a retry keeps what is done
        self.observers = Observers(observers)
        self._plans = {plan.name: plan for plan in plans}

    def __enter__(self) -> Self:
        self.observers.on_run_start(RunStart(self.title, self.context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.observers.on_run_end(error)

    def recipe(self, module: Stage, inputs: Mapping[str, Artifact]) -> Recipe:
        """Return the planned recipe where it is of these very inputs, else make it."""
        plan = self._plans.get(module.NAME)
        if plan is not None and plan.recipe is not None and plan.inputs == inputs:
            return plan.recipe
        return module.recipe(self.context, inputs)

    def forget_plan(self) -> None:
        """Drop what was planned and opened: what is needed from now on is planned and opened again."""
        self._plans = {}
        self.context.forget_opened()


def run_stage(run: Run, module: Stage, inputs: Mapping[str, Artifact], *, before: Before | None = None) -> Done:
    """Return the stage's artifact, found or made; `before` is called when there is work, with the stage's context.

    Raises:
        RejectedError: more clips were rejected than the data sets allow.
        SanaError, WorkerError, StoreError: as the stage says.
    """
    tell = run.observers.on_event
    tell(StageStart(module.NAME))
    state = FAILED
    failure: BaseException | None = None
    try:
        with FullDiskExplained():
            done = _find_or_make(run, module, inputs, before)
        check_rejects(run.context.config, done.artifact, run.context.store)
        state = done.state
        return done
    except BaseException as error:
        failure, state = error, FAILED if isinstance(error, Exception | CancelledError) else STOPPED
        run.forget_plan()  # it may be what failed: another attempt lists the sources again
        raise
    finally:
        run.context.forget_opened()  # nothing after the first stage reads it, and it may be large
        tell(StageEnd(module.NAME, state, failure))


def run_stages(run: Run, names: Collection[str]) -> list[Done]:
    """Run these stages of the config in order, each with the artifacts that provide the tables it reads."""
    done: dict[str, Done] = {}
    for name in names:
        done[name] = run_stage(run, graph.stage(name), inputs_of(run, name, done))
    return list(done.values())


def inputs_of(run: Run, name: str, done: Mapping[str, Done]) -> dict[str, Artifact]:
    """Return the artifacts that provide the tables a stage reads, by table, from what the stages above it made."""
    return graph.inputs_of(run.context.config, name, {above: one.artifact for above, one in done.items()})


def _find_or_make(run: Run, module: Stage, inputs: Mapping[str, Artifact], before: Before | None) -> Done:
    name, tell = module.NAME, run.observers.on_event
    forced = name in run.force
    recipe = run.recipe(module, inputs)
    found = None if forced else find(run.context.store, recipe)
    if found is not None:
        tell(Committed(name, recipe, inputs, found, CACHED))
        return Done(name, CACHED, found)

    def report(progress: Progress) -> None:
        run.observers.on_stage_progress(name, progress)

    log.info("%s: %s starts", name, recipe.fingerprint)
    tell(WorkStart(name, recipe, inputs))
    context = replace(run.context, report=report, salt=run.salt if forced else "")
    if before is not None:
        before(context, inputs)
    made = module.run(context, inputs, recipe)
    state = REPRODUCED if made.reproduced else COMPLETED
    tell(Committed(name, recipe, inputs, made, state))
    log.info("%s: %s committed in %.1f s, %s", name, made.fingerprint, made.seconds, made.counts)
    return Done(name, state, made)
