"""A training by what a person calls it: a run, a fingerprint, or the trajectory of one that is not finished."""

from sana.comparison.lineage import Lineage
from sana.report.training.origins import origins
from sana.report.training.subject import Subject, finished_subject
from sana.runs.naming import ended_on, find_named
from sana.training.checkpoints.checkpoint import newest_checkpoint


def find_subject(lineage: Lineage, name: str) -> Subject:
    """Return the training that a run's id, a fingerprint, a trajectory or the beginning of one names.

    Raises:
        SanaError: there is none, or several begin so; names the nearest, or some of those.
    """
    named = find_named(lineage, name)
    named.require_training()
    trained = named.trained or ended_on(lineage, named.trajectory)
    if trained is not None:
        return finished_subject(lineage, trained)
    checkpoint = newest_checkpoint(lineage.store, named.trajectory)
    snapshot = checkpoint.snapshot if checkpoint else {}
    digests = [digest for views in snapshot.values() for digest in views.values()]
    return Subject(lineage, "", named.trajectory, origins(lineage, digests))
