"""A training by what a person calls it: a run, a fingerprint, or the trajectory of one that is not finished."""

from sana.comparison.find import find_subject as find_compared
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.report.training.origins import origins
from sana.report.training.subject import Subject, finished_subject
from sana.runs.listing import read_run
from sana.training.checkpoints.checkpoint import newest_checkpoint


def find_subject(lineage: Lineage, name: str) -> Subject:
    """Return the training that a run's id, a fingerprint, a trajectory or the beginning of one names.

    Raises:
        SanaError: there is none, or several begin so; names those that there are.
    """
    run = read_run(lineage.store, name) if name.replace("-", "").isalnum() else None
    if run is not None and not run.trajectory:
        raise SanaError(f"run {name} has not trained: it came to no training, so there is nothing to report on")
    found = find_compared(run.trajectory if run else name, lineage, "ema")
    if found.trained is not None:
        return finished_subject(lineage, found.trained)
    checkpoint = newest_checkpoint(lineage.store, found.trajectory)
    snapshot = checkpoint.snapshot if checkpoint else {}
    digests = [digest for views in snapshot.values() for digest in views.values()]
    return Subject(lineage, "", found.trajectory, origins(lineage, digests))
