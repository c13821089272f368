"""What a name means, for every command and the library: a run, a training, or the beginning of one's name.

Names are found by listings: only what was found is read. A run is named by its id; a training by its fingerprint, by
its trajectory, or by an artifact that a run of it made.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from sana.artifact import Artifact, newest_commit
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.runs.listing import Run, read_run, runs_of
from sana.runs.records import FOLDER
from sana.store import Store
from sana.training.checkpoints.checkpoint import training_folders
from sana.wording import first_of, one_line, without_controls

LEAST_CHARS = 4  # of a name that is cut short
MAX_RUNS = 200  # whose artifacts are looked through, the newest first
DONE = ("cached", "completed", "reproduced")  # states of a stage that has its artifact
_SHOWN = 6
_LIKELY = 0.7  # ratio of equal characters from which on a name is the nearest
_NEAR = 1000  # newest names among which the nearest is looked for
_RUN_ID = re.compile(r"\d{8}(-\d{0,6}(-[0-9a-f]{0,6})?)?")  # or the beginning of one: a whole day


@dataclass(frozen=True)
class Named:
    """What a name means. `trained` is None while it is not finished, or where its trajectory was named.

    `run`: where a run was named; its `trajectory` is "" before it has trained.
    """

    trajectory: str
    trained: Artifact | None = None
    run: Run | None = None

    def require_training(self) -> None:
        """Raise SanaError where it is a run that came to no training."""
        if not self.trajectory and self.trained is None:
            run_id = self.run.run_id if self.run else ""
            raise SanaError(f"run {run_id} has trained nothing yet: there is no training to show or compare")


def find_named(lineage: Lineage, name: str) -> Named:
    """Return what a name means.

    Raises:
        SanaError: nothing, or several begin so; names the nearest, or some of those.
        StoreError: storage does not answer.
    """
    store = lineage.store
    finished, begun, runs = _fingerprints(store), training_folders(store), _runs_like(store, name)
    trainings = list(dict.fromkeys([*finished, *begun]))
    matches = _matching(name, [*trainings, *runs]) or _matching(name, _old_trajectories(lineage))
    if not matches:
        return _of_artifact(store, name) or _nothing(store, name, trainings)
    if len(matches) > 1:
        raise SanaError(
            f"{name} is the beginning of {len(matches)} names, {first_of(sorted(matches)[:_SHOWN], len(matches))}; "
            "write more of it"
        )
    [found] = matches
    if found in runs and (run := read_run(store, found)) is not None:
        return of_run(store, run)
    return of_training(store, found) if found in finished else Named(found)


def of_run(store: Store, run: Run) -> Named:
    """Return what a run made, or is at: the artifact of its training, else the trajectory that it worked on."""
    stage = run.status.stages.get(TrainFacts.STAGE) if run.status else None
    if stage is not None and stage.state in DONE and stage.fingerprint:
        trained = newest_commit(store, f"{TrainFacts.STAGE}/{stage.fingerprint}")
        if trained is not None:
            return Named(TrainFacts.of(trained).trajectory, trained, run)
    return Named(run.trajectory, None, run)


def of_training(store: Store, fingerprint: str) -> Named:
    """Return a finished training. Raises SanaError: it is gone, or damaged."""
    trained = newest_commit(store, f"{TrainFacts.STAGE}/{fingerprint}")
    if trained is None:
        raise SanaError(f"{store.uri(f'{TrainFacts.STAGE}/{fingerprint}')} is gone: it was deleted a moment ago")
    return Named(TrainFacts.of(trained).trajectory, trained)


def ended_on(lineage: Lineage, trajectory: str) -> Artifact | None:
    """Return the newest finished training of a trajectory, or None."""
    every = lineage.all(TrainFacts.STAGE)
    return next((one for one in every if TrainFacts.of(one).trajectory == trajectory), None)


def _matching(name: str, names: Collection[str]) -> list[str]:
    if name in names:
        return [name]
    return [one for one in names if one.startswith(name)] if len(name) >= LEAST_CHARS else []


def _fingerprints(store: Store) -> list[str]:
    """Return the fingerprints of the finished trainings, that which was committed last first: one listing."""
    keys = reversed(store.list(f"{TrainFacts.STAGE}/history"))
    return list(dict.fromkeys(key.rpartition("-")[2] for key, _ in keys))


def _runs_like(store: Store, name: str) -> list[str]:
    """Return the runs that a name may be the beginning of; nothing is listed for a name that no run can have."""
    return store.list_dirs(FOLDER) if _RUN_ID.fullmatch(name) else []


def _old_trajectories(lineage: Lineage) -> list[str]:
    """Return the trajectories of finished trainings, whose checkpoints may be gone; reads each artifact of train."""
    return list(dict.fromkeys(TrainFacts.of(one).trajectory for one in lineage.all(TrainFacts.STAGE)))


def _of_artifact(store: Store, name: str) -> Named | None:
    """Return the newest run that made an artifact whose fingerprint is or begins so; None: the newest runs did not.

    Raises:
        SanaError: runs of several trainings made or read it.
    """
    if len(name) < LEAST_CHARS:
        return None
    made = [run for run in runs_of(store, limit=MAX_RUNS) if any(one.startswith(name) for one in _artifacts_of(run))]
    trainings = list(dict.fromkeys(run.trajectory or run.run_id for run in made))
    if len(trainings) > 1:
        raise SanaError(
            f"{name} is of {len(trainings)} trainings, {first_of(trainings[:_SHOWN], len(trainings))}; name one of them"
        )
    return of_run(store, made[0]) if made else None


def _artifacts_of(run: Run) -> Iterator[str]:
    if run.status is not None:
        yield run.status.trajectory
        yield from (stage.fingerprint for stage in run.status.stages.values())


def _nothing(store: Store, name: str, trainings: list[str]) -> Named:
    """Raise the error of a name that means nothing here: what is nearest, or what there is."""
    runs = store.list_dirs(FOLDER)[::-1]
    begun = {one[: len(name)]: one for one in [*runs[:_NEAR][::-1], *trainings[:_NEAR][::-1]]}  # the newest counts
    near = get_close_matches(name, begun, n=1, cutoff=_LIKELY)
    if near:
        known = f"did you mean {begun[near[0]]}?"
    elif trainings or runs:
        known = f"it has {first_of((trainings or runs)[:_SHOWN], len(trainings or runs))}"
    else:
        known = "nothing was trained there: sana run CONFIG does it"
    if 0 < len(name) < LEAST_CHARS:
        known += f" (the beginning of a name has at least {LEAST_CHARS} characters)"
    shown = without_controls(one_line(name, most=80)) or "''"
    raise SanaError(f"{store.root} has no training or run {shown}; {known}")
