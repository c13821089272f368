"""A training by what a person calls it: its fingerprint, or the trajectory of one that is not finished."""

from difflib import get_close_matches

from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.report.training.origins import newest, origins
from sana.report.training.subject import Subject, finished_subject
from sana.training.checkpoints.checkpoint import newest_checkpoint

_LEAST_CHARS = 4  # of a name that is cut short
_EVERY_STEP = 10**12


def find_subject(lineage: Lineage, name: str) -> Subject:
    """Return the training that a fingerprint, a trajectory or the beginning of one names; finished ones come first.

    Raises:
        SanaError: there is none, or several; names those that there are.
    """
    finished = {one.fingerprint: one for one in newest(lineage, "train")}
    trajectories: dict[str, list[str]] = {}
    for fingerprint, one in finished.items():
        trajectories.setdefault(TrainFacts.of(one).trajectory, []).append(fingerprint)
    begun = [folder for folder in lineage.store.list_dirs("train") if folder not in (*finished, "history")]
    names = [*finished, *begun]
    exact = [one for one in names if one == name]
    matches = exact or [one for one in names if len(name) >= _LEAST_CHARS and one.startswith(name)]
    if len(matches) > 1:
        raise SanaError(f"{name} names {len(matches)} trainings: {', '.join(sorted(matches)[:8])}; write more of it")
    if not matches:
        near = get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
        known = f"; there are {', '.join(near)}" if near else "; nothing was trained there"
        raise SanaError(f"{lineage.store.root} has no training {name}{known}")
    [found] = matches
    if found in finished:
        return finished_subject(lineage, finished[found])
    if found in trajectories:  # the newest of those that ended on it
        return finished_subject(lineage, finished[trajectories[found][0]])
    checkpoint = newest_checkpoint(lineage.store, found, at_most=_EVERY_STEP)
    if checkpoint is None:
        raise SanaError(
            f"{lineage.store.uri(f'train/{found}')} has no checkpoint yet, so there is nothing to report on"
        )
    digests = [digest for views in checkpoint.snapshot.values() for digest in views.values()]
    return Subject(lineage, f"trajectory {found}", found, origins(lineage, digests))
