"""The training that a name means to the library: what `sana.runs.naming` finds, or the newest one."""

from dataclasses import dataclass

from sana.artifact import Artifact, latest
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.runs.listing import runs_of
from sana.runs.naming import Named, ended_on, find_named, of_run
from sana.store import Store
from sana.training.checkpoints.checkpoint import training_folders

_SHOWN = 6
_NEWEST_RUNS = 100  # that are looked through for one that trained


@dataclass(frozen=True)
class Opened:
    """A training. `trained`: its artifact, None while it is not finished; `trajectory`: "" before its first step."""

    name: str
    trajectory: str
    trained: Artifact | None = None


def find_opened(store: Store, name: str | None) -> Opened:
    """Return the training that a fingerprint, trajectory or run id, or the beginning of one, means; None: the newest.

    Raises:
        SanaError: there is none, or several begin so; names the nearest, or some of those.
        StoreError: storage does not answer.
    """
    lineage = Lineage(store)
    return _newest(lineage) if name is None else _opened(lineage, find_named(lineage, name))


def _newest(lineage: Lineage) -> Opened:
    """Return the training of the newest run that trains or has trained, or what was committed since."""
    committed = latest(lineage.store, TrainFacts.STAGE)
    runs = runs_of(lineage.store, limit=_NEWEST_RUNS)
    run = next((run for run in runs if run.trajectory), None)
    if run is not None and (committed is None or run.started.started_at > committed.created_at):
        return _opened(lineage, of_run(lineage.store, run))
    if committed is not None:
        return _finished(committed)
    begun = training_folders(lineage.store)
    if len(begun) == 1:
        return Opened(begun[0], begun[0])
    if begun:
        raise SanaError(f"{lineage.store.root} has several unfinished trainings: {', '.join(begun[:_SHOWN])}; name one")
    if runs:
        return Opened(runs[0].run_id, "")
    raise SanaError(f"nothing was trained in {lineage.store.root}; sana run CONFIG does it, or name another root")


def _opened(lineage: Lineage, named: Named) -> Opened:
    """Return a training as its run left it; of a trajectory the newest training that ended on it."""
    if named.trained is not None:
        return _finished(named.trained)
    if not named.trajectory:
        return Opened(named.run.run_id if named.run else "", "")
    trained = None if _is_at_work(named) else ended_on(lineage, named.trajectory)
    return _finished(trained) if trained is not None else Opened(named.trajectory, named.trajectory)


def _is_at_work(named: Named) -> bool:
    """Whether it is a run that has not finished its training."""
    stage = named.run.status.stages.get(TrainFacts.STAGE) if named.run and named.run.status else None
    return stage is not None and stage.state in ("running", "failed", "stopped")


def _finished(trained: Artifact) -> Opened:
    return Opened(trained.fingerprint, TrainFacts.of(trained).trajectory, trained)
