"""The training that a name means to the library: a fingerprint, a trajectory, a run, or the newest one."""

from dataclasses import dataclass
from difflib import get_close_matches

from sana.artifact import Artifact, latest
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.runs.listing import Run, read_run, runs_of
from sana.store import Store
from sana.training.checkpoints.checkpoint import training_folders
from sana.wording import first_of

_LEAST_CHARS = 4  # of a name that is cut short
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
        SanaError: there is none, or several begin so; names those that there are.
        StoreError: storage does not answer.
    """
    lineage = Lineage(store)
    return _newest(lineage) if name is None else _named(lineage, name)


def _newest(lineage: Lineage) -> Opened:
    """Return the training of the newest run that trains or has trained, or what was committed since."""
    committed = latest(lineage.store, TrainFacts.STAGE)
    runs = runs_of(lineage.store, limit=_NEWEST_RUNS)
    run = next((run for run in runs if run.trajectory), None)
    if run is not None and (committed is None or run.started.started_at > committed.created_at):
        return _of_run(lineage, run)
    if committed is not None:
        return _finished(committed)
    begun = _begun(lineage, set())
    if len(begun) == 1:
        return Opened(begun[0], begun[0])
    if begun:
        raise SanaError(f"{lineage.store.root} has several unfinished trainings: {', '.join(begun[:_SHOWN])}; name one")
    if runs:
        return Opened(runs[0].run_id, "")
    raise SanaError(f"nothing was trained in {lineage.store.root}; sana run CONFIG does it, or name another root")


def _named(lineage: Lineage, name: str) -> Opened:
    store = lineage.store
    run = read_run(store, name) if "/" not in name and name else None
    if run is not None:
        return _of_run(lineage, run)
    finished = {one.fingerprint: one for one in lineage.all(TrainFacts.STAGE)}
    names = [*finished, *_begun(lineage, set(finished))]
    matches = [one for one in names if one == name]
    matches = matches or [one for one in names if len(name) >= _LEAST_CHARS and one.startswith(name)]
    if len(matches) > 1:
        raise SanaError(
            f"{name} is the beginning of {len(matches)} trainings, {first_of(sorted(matches)[:_SHOWN], len(matches))}; "
            "write more of it"
        )
    if not matches:
        near = get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
        known = f"it has {', '.join(near)}" if near else "nothing was trained there"
        raise SanaError(f"{store.root} has no training or run {name}; {known}")
    [found] = matches
    if found in finished:
        return _finished(finished[found])
    return _of_trajectory(lineage, found)


def _of_run(lineage: Lineage, run: Run) -> Opened:
    if not run.trajectory:
        return Opened(run.run_id, "")
    stage = run.status.stages.get(TrainFacts.STAGE) if run.status else None
    if stage is not None and stage.state in ("running", "failed", "stopped"):
        return Opened(run.trajectory, run.trajectory)
    return _of_trajectory(lineage, run.trajectory)


def _of_trajectory(lineage: Lineage, trajectory: str) -> Opened:
    """Return the newest training that ended on a trajectory, or the unfinished one."""
    ended = (one for one in lineage.all(TrainFacts.STAGE) if TrainFacts.of(one).trajectory == trajectory)
    trained = next(ended, None)
    return _finished(trained) if trained is not None else Opened(trajectory, trajectory)


def _finished(trained: Artifact) -> Opened:
    return Opened(trained.fingerprint, TrainFacts.of(trained).trajectory, trained)


def _begun(lineage: Lineage, finished: set[str]) -> list[str]:
    return [name for name in training_folders(lineage.store) if name not in finished]
